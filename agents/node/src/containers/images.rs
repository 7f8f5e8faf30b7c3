//! Images: whether one is here, and how it comes here.
use super::StartFailure;
use crate::agent::Agent;
use base64::Engine;
use bollard::auth::DockerCredentials;
use serde_json::Value;
use std::sync::Arc;

const DEFAULT_REGISTRY: &str = "docker.io";

/// Whether a container's image is here and need not be asked for elsewhere.
pub async fn is_ready(agent: &Agent, spec: &Value) -> bool {
    let image = spec["image"].as_str().unwrap_or_default();
    let asks = spec["imagePullPolicy"] == "Always" || !is_reference(image);
    !asks && matches!(agent.runtime.image_user(image).await, Ok(Some(_)))
}

/// Sees to it that a container's image is here, by its pull policy; the user that the image runs as.
pub async fn ensure(agent: &Arc<Agent>, pod: &Value, spec: &Value) -> Result<String, StartFailure> {
    let image = spec["image"].as_str().unwrap_or_default();
    let container = spec["name"].as_str();
    if !is_reference(image) {
        let message = format!(
            "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format"
        );
        return Err(StartFailure { reason: "InvalidImageName", message });
    }
    let policy = spec["imagePullPolicy"].as_str().unwrap_or("IfNotPresent");
    let inspect_error =
        |e: anyhow::Error| StartFailure { reason: "ImageInspectError", message: format!("{e:#}") };
    let present = agent.runtime.image_user(image).await.map_err(inspect_error)?;
    match (policy, present) {
        ("IfNotPresent" | "Never", Some(user)) => {
            let message = format!("Container image {image:?} already present on machine");
            agent.event(pod, container, "Normal", "Pulled", message);
            return Ok(user);
        }
        ("Never", None) => {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            return Err(StartFailure { reason: "ErrImageNeverPull", message });
        }
        _ => {}
    }
    agent.event(pod, container, "Normal", "Pulling", format!("Pulling image {image:?}"));
    let waited = std::time::Instant::now();
    let _turn = agent.pulls.acquire().await;
    let begun = std::time::Instant::now();
    pull(agent, pod, image).await.map_err(|why| StartFailure {
        reason: "ErrImagePull",
        message: format!("Failed to pull image {image:?}: {why}"),
    })?;
    if let Err(error) = agent.images.lock().pulled(image, &agent.data_dir) {
        tracing::warn!(image, %error, "it could not be written down that this node pulled an image");
    }
    let (took, waited) = (begun.elapsed().as_secs_f64(), waited.elapsed().as_secs_f64());
    let message =
        format!("Successfully pulled image {image:?} in {took:.3}s ({waited:.3}s including waiting)");
    agent.event(pod, container, "Normal", "Pulled", message);
    Ok(agent.runtime.image_user(image).await.map_err(inspect_error)?.unwrap_or_default())
}

/// With each of the pod's credentials for that registry in turn, else without.
async fn pull(agent: &Agent, pod: &Value, image: &str) -> Result<(), String> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let secrets = pod["spec"]["imagePullSecrets"].as_array().into_iter().flatten();
    let secrets: Vec<Arc<Value>> = secrets
        .filter_map(|s| agent.assigned.lock().get("secrets", namespace, s["name"].as_str()?))
        .collect();
    let mut tries: Vec<Option<DockerCredentials>> =
        secrets.iter().flat_map(|secret| credentials(secret, image)).map(Some).collect();
    if tries.is_empty() {
        tries.push(None);
    }
    let mut why = String::new();
    for credentials in tries {
        match agent.runtime.pull(image, credentials).await {
            Ok(()) => return Ok(()),
            Err(error) => why = error.0,
        }
    }
    Err(why)
}

/// Loosely: what Docker would take apart in another way than meant is left for it to refuse.
fn is_reference(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or_default();
    let path = name.rsplit('/').next().unwrap_or_default();
    let repository =
        name.strip_suffix(path).unwrap_or_default().to_owned() + path.split(':').next().unwrap_or_default();
    !path.is_empty()
        && !repository.split('/').skip(1).any(|part| part.is_empty() || part.chars().any(char::is_uppercase))
        && image.chars().all(|c| c.is_ascii_alphanumeric() || "./:@_-[]".contains(c))
        && (repository.contains('/') || !repository.chars().any(char::is_uppercase))
}

/// Registry and path of an image, as Docker completes it.
fn place(image: &str) -> (String, String) {
    let (first, rest) = image.split_once('/').unwrap_or(("", image));
    let is_host = first.contains(['.', ':']) || first == "localhost";
    if is_host {
        (first.to_owned(), rest.to_owned())
    } else {
        (DEFAULT_REGISTRY.to_owned(), image.to_owned())
    }
}

/// The credentials of a pull secret that are for an image's registry, the most particular first.
fn credentials(secret: &Value, image: &str) -> Vec<DockerCredentials> {
    let decode = |value: &Value| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str()?).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok()
    };
    let auths = match decode(&secret["data"][".dockerconfigjson"]) {
        Some(config) => config["auths"].clone(),
        None => decode(&secret["data"][".dockercfg"]).unwrap_or_default(),
    };
    let (host, path) = place(image);
    let mut found: Vec<(usize, DockerCredentials)> = Vec::new();
    for (server, entry) in auths.as_object().into_iter().flatten() {
        let bare = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        let bare = bare.trim_end_matches("/v1").trim_end_matches("/v2");
        let (wanted_host, wanted_path) = bare.split_once('/').unwrap_or((bare, ""));
        let wanted_host = if wanted_host.ends_with("docker.io") { DEFAULT_REGISTRY } else { wanted_host };
        if !same_host(wanted_host, &host) || !path.starts_with(wanted_path) {
            continue;
        }
        let pair = entry["auth"].as_str().and_then(|auth| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(auth).ok()?;
            let text = String::from_utf8(bytes).ok()?;
            text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
        });
        let text = |field: &str| entry[field].as_str().map(str::to_owned);
        let (username, password) = match pair {
            Some((user, password)) => (Some(user), Some(password)),
            None => (text("username"), text("password")),
        };
        let credentials = DockerCredentials {
            username,
            password,
            identitytoken: text("identitytoken"),
            serveraddress: Some(server.clone()),
            ..DockerCredentials::default()
        };
        found.push((wanted_path.len(), credentials));
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, credentials)| credentials).collect()
}

/// `*.example.com` stands for one label.
fn same_host(wanted: &str, host: &str) -> bool {
    let (wanted, host): (Vec<&str>, Vec<&str>) = (wanted.split('.').collect(), host.split('.').collect());
    wanted.len() == host.len() && wanted.iter().zip(&host).all(|(w, h)| *w == "*" || w == h)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pull_secret_serves_the_registries_it_names() {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let auth = |user: &str| json!({"auth": encode(&format!("{user}:secret"))});
        let config = json!({"auths": {
            "https://index.docker.io/v1/": auth("hub"), "registry.example.com": auth("all"),
            "registry.example.com/team": auth("team"), "*.mirror.example": {"username": "m", "password": "p"}}});
        let secret = json!({"data": {".dockerconfigjson": encode(&config.to_string())}});
        let users = |image: &str| -> Vec<String> {
            credentials(&secret, image).into_iter().filter_map(|c| c.username).collect()
        };
        assert_eq!(users("nginx"), ["hub"]);
        assert_eq!(users("registry.example.com/team/app:1"), ["team", "all"]);
        assert_eq!(users("registry.example.com/other"), ["all"]);
        assert_eq!(users("eu.mirror.example/x"), ["m"]);
        assert_eq!(users("localhost:5000/x"), Vec::<String>::new());
    }

    #[test]
    fn image_names_that_cannot_be_are_known() {
        for good in
            ["nginx", "nginx:1.27", "a/b/c@sha256:0123", "localhost:5000/x:y", "registry.Example.com/x"]
        {
            assert!(is_reference(good), "{good}");
        }
        for bad in ["", "a b", "Nginx", "host/UPPER", "a//b", "x/", "a:b$"] {
            assert!(!is_reference(bad), "{bad}");
        }
    }
}
