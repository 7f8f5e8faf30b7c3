//! Asks `custom.metrics.k8s.io` and `external.metrics.k8s.io` what autoscalers want to know, by the same URLs as any client:
//! whoever serves those groups here answers.
use crate::auth::{Auth, Claims};
use crate::http::resources::percent_encode;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use futures::StreamExt;
use pilothouse_api::Registry;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::quantity::Quantity;
use pilothouse_controllers::horizontal_pod_autoscaler::{Answers, Question, Reading, Sample};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

const USER: &str = "system:controller:horizontal-pod-autoscaler";
const TOKEN_SECONDS: i64 = 60;
/// Questions asked at the same time.
const CONCURRENCY: usize = 16;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer answers are no answers.
const ANSWER_BYTES: usize = 8 << 20;
/// Newest first.
const CUSTOM_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];
const EXTERNAL_VERSIONS: [&str; 1] = ["v1beta1"];

/// Cheap to clone.
#[derive(Clone)]
pub struct MetricsApis {
    router: Router,
    auth: Auth,
}

impl MetricsApis {
    /// `router` is the server's own: requests do not leave it but for those who answer.
    pub fn new(router: Router, auth: Auth) -> Self {
        Self { router, auth }
    }

    pub async fn answers(self, questions: Vec<Question>, registry: Arc<Registry>) -> Answers {
        let asked = futures::stream::iter(questions).map(|question| {
            let (apis, registry) = (self.clone(), registry.clone());
            async move {
                let answer = apis.answer(&question, &registry).await;
                (question, answer)
            }
        });
        asked.buffer_unordered(CONCURRENCY).collect().await
    }

    async fn answer(&self, question: &Question, registry: &Registry) -> Result<Vec<Reading>, String> {
        let (api, versions) = match question {
            Question::External { .. } => ("external", &EXTERNAL_VERSIONS[..]),
            _ => ("custom", &CUSTOM_VERSIONS[..]),
        };
        let failed = |why: String| {
            format!(
                "unable to get metric {}: unable to fetch metrics from {api} metrics API: {why}",
                question.metric()
            )
        };
        let path = path(question, registry).map_err(failed)?;
        let mut why = String::new();
        for version in versions {
            let url = format!("/apis/{api}.metrics.k8s.io/{version}/{path}");
            match tokio::time::timeout(ANSWER_TIMEOUT, self.get(&url)).await {
                Ok(Ok((StatusCode::OK, list))) => return Ok(readings(&list)),
                // Another version may be served.
                Ok(Ok((code, status))) => {
                    why = status["message"].as_str().unwrap_or_default().to_owned();
                    if code != StatusCode::NOT_FOUND {
                        break;
                    }
                }
                Ok(Err(error)) => why = error,
                Err(_) => why = "no answer in time".into(),
            }
        }
        Err(failed(why))
    }

    async fn get(&self, url: &str) -> Result<(StatusCode, Value), String> {
        let claims = Claims::new(USER, &["system:masters"], TOKEN_SECONDS);
        let token = self.auth.issue(&claims).map_err(|error| error.to_string())?;
        let request = Request::get(url)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::ACCEPT, "application/json")
            .body(Body::empty())
            .map_err(|error| error.to_string())?;
        let Ok(response) = self.router.clone().oneshot(request).await;
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, ANSWER_BYTES).await.map_err(|error| error.to_string())?;
        Ok((parts.status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }
}

/// Below the group's version.
fn path(question: &Question, registry: &Registry) -> Result<String, String> {
    let text = percent_encode;
    Ok(match question {
        Question::Pods { namespace, selector, metric, metric_selector } => format!(
            "namespaces/{namespace}/pods/*/{}?labelSelector={}&metricLabelSelector={}",
            text(metric),
            text(selector),
            text(metric_selector)
        ),
        Question::Object { namespace, api_version, kind, name, metric, metric_selector } => {
            let entry = registry.by_kind(api_version, kind);
            let entry =
                entry.ok_or_else(|| format!("no matches for kind {kind:?} in version {api_version:?}"))?;
            let place = match (&*entry.resource, entry.is_namespaced()) {
                ("namespaces", _) => format!("namespaces/{}/metrics", text(name)),
                (resource, true) => format!("namespaces/{namespace}/{resource}/{}", text(name)),
                (resource, false) => format!("{resource}/{}", text(name)),
            };
            format!("{place}/{}?metricLabelSelector={}", text(metric), text(metric_selector))
        }
        Question::External { namespace, metric, metric_selector } => {
            format!("namespaces/{namespace}/{}?labelSelector={}", text(metric), text(metric_selector))
        }
    })
}

/// Of a `MetricValueList` or an `ExternalMetricValueList`.
fn readings(list: &Value) -> Vec<Reading> {
    let reading = |item: &Value| {
        let milli = item["value"].as_str().and_then(Quantity::parse)?.milli();
        let taken_at =
            item["timestamp"].as_str().and_then(|at| at.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH);
        let window = item["windowSeconds"].as_i64().or_else(|| item["window"].as_i64()).unwrap_or(0);
        let of = item["describedObject"]["name"].as_str().unwrap_or_default().to_owned();
        Some(Reading { of, sample: Sample { milli, taken_at, window_seconds: window } })
    };
    list["items"].as_array().into_iter().flatten().filter_map(reading).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Api;
    use axum::extract::Request;
    use axum::response::IntoResponse;
    use serde_json::json;

    /// Answers with the URL it was asked by, as a metric's name would be; and knows only the older custom version.
    async fn adapter(request: Request) -> axum::response::Response {
        let url = request.uri().to_string();
        if url.contains("v1beta2") || request.headers().get("authorization").is_none() {
            return (StatusCode::NOT_FOUND, axum::Json(json!({"message": "not here"}))).into_response();
        }
        let items = json!([
            {"describedObject": {"name": url}, "timestamp": "2026-01-01T00:00:00Z", "windowSeconds": 30, "value": "1500m"},
            {"metricName": "odd", "value": "no number"},
        ]);
        axum::Json(json!({"items": items})).into_response()
    }

    #[tokio::test]
    async fn questions_become_urls_and_answers_readings() {
        let api = Api::start().await;
        let apis = MetricsApis::new(Router::new().fallback(adapter), api.state.auth.clone());
        let (namespace, metric, metric_selector) =
            ("shop".to_owned(), "rate".to_owned(), "verb=GET".to_owned());
        let pods = Question::Pods {
            namespace: namespace.clone(),
            selector: "app in (a,b)".into(),
            metric: metric.clone(),
            metric_selector: metric_selector.clone(),
        };
        let object = |api_version: &str, kind: &str| Question::Object {
            namespace: namespace.clone(),
            api_version: api_version.into(),
            kind: kind.into(),
            name: "front".into(),
            metric: metric.clone(),
            metric_selector: metric_selector.clone(),
        };
        let external = Question::External {
            namespace: namespace.clone(),
            metric: metric.clone(),
            metric_selector: metric_selector.clone(),
        };
        let custom = "/apis/custom.metrics.k8s.io/v1beta1";
        let rows = [
            (
                pods,
                format!(
                    "{custom}/namespaces/shop/pods/*/rate?labelSelector=app%20in%20%28a%2Cb%29&metricLabelSelector=verb%3DGET"
                ),
            ),
            (
                object("networking.k8s.io/v1", "Ingress"),
                format!(
                    "{custom}/namespaces/shop/ingresses.networking.k8s.io/front/rate?metricLabelSelector=verb%3DGET"
                ),
            ),
            (
                object("v1", "Namespace"),
                format!("{custom}/namespaces/front/metrics/rate?metricLabelSelector=verb%3DGET"),
            ),
            (object("v1", "Node"), format!("{custom}/nodes/front/rate?metricLabelSelector=verb%3DGET")),
            (
                external,
                "/apis/external.metrics.k8s.io/v1beta1/namespaces/shop/rate?labelSelector=verb%3DGET".into(),
            ),
        ];
        let registry = Arc::new(Registry::builtin());
        let questions = rows.iter().map(|(question, _)| question.clone()).collect();
        let answers = apis.clone().answers(questions, registry.clone()).await;
        for (question, url) in rows {
            let sample =
                Sample { milli: 1500, taken_at: "2026-01-01T00:00:00Z".parse().unwrap(), window_seconds: 30 };
            assert_eq!(answers[&question], Ok(vec![Reading { of: url, sample }]));
        }
        let odd = object("x/v1", "Odd");
        let answers = apis.answers(vec![odd.clone()], registry).await;
        assert!(answers[&odd].as_ref().unwrap_err().contains("no matches for kind \"Odd\""), "{answers:?}");
    }

    #[tokio::test]
    async fn a_group_that_nobody_serves_is_told_as_that() {
        let api = Api::start().await;
        let router = crate::routes::router(api.state.clone(), Default::default());
        let apis = MetricsApis::new(router, api.state.auth.clone());
        let question = Question::External {
            namespace: "shop".into(),
            metric: "queue".into(),
            metric_selector: String::new(),
        };
        let answers = apis.answers(vec![question.clone()], Arc::new(Registry::builtin())).await;
        assert_eq!(
            answers[&question].as_ref().unwrap_err(),
            "unable to get metric queue: unable to fetch metrics from external metrics API: the server could not find the requested resource"
        );
    }
}
