//! A node must have what the pod asks for.
use crate::framework::{Filter, PodInfo, Verdict};
use crate::snapshot::{NodeInfo, Snapshot};

pub struct NodeResourcesFit;

impl Filter for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> Verdict {
        let short = pod.requests.iter().filter(|(resource, wanted)| {
            let has = node.allocatable.get(*resource).copied().unwrap_or(0);
            let taken = node.requested.get(*resource).copied().unwrap_or(0);
            **wanted > 0 && **wanted > has - taken
        });
        let reasons: Vec<String> = short
            .map(|(resource, _)| match resource.as_str() {
                "pods" => "Too many pods".into(),
                resource => format!("Insufficient {resource}"),
            })
            .collect();
        if reasons.is_empty() { Verdict::Fits } else { Verdict::No(reasons) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{pod, snapshot};
    use crate::framework::schedule;
    use serde_json::json;

    #[test]
    fn a_pod_goes_where_its_requests_fit_and_is_told_why_not() {
        let node = |name: &str, cpu: &str| json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "2"}}});
        let mut cluster = snapshot(&[node("small", "500m"), node("large", "2")]);
        let asking = |name: &str, cpu: &str| pod(name, json!({"containers": [{"resources": {"requests": {"cpu": cpu}}}]}));
        assert_eq!(&*schedule(&asking("a", "1500m"), &cluster).unwrap(), "large");
        cluster.place(asking("a", "1500m"), "large");
        let refused = schedule(&asking("b", "1"), &cluster).unwrap_err();
        assert_eq!(refused, "0/2 nodes are available: 2 Insufficient cpu.");
        cluster.forget("a");
        assert!(schedule(&asking("b", "1"), &cluster).is_ok());
    }
}
