//! What a node tells of its pods, as it is written: of one pod in order, of different pods at the same time. A write is
//! answered when it is on disk, and a node that starts a hundred pods would wait for each of theirs in turn.
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use pilothouse_protocol::NodeMessage;
use std::collections::{HashMap, VecDeque};
use std::mem::discriminant;
use std::sync::Arc;

/// Pods of one node whose reports are written at the same time.
const CONCURRENCY: usize = 32;
/// Pods with reports that may wait; with more the node is not listened to until some are written.
const PODS: usize = 256;

/// The pods of one node with something to write, by UID: what is to be written after what is being written.
pub struct PodReports<'a, W> {
    write: W,
    pods: HashMap<Arc<str>, VecDeque<NodeMessage>>,
    ready: VecDeque<Arc<str>>,
    writing: FuturesUnordered<BoxFuture<'a, Arc<str>>>,
}

impl<'a, W: Fn(NodeMessage) -> BoxFuture<'a, ()>> PodReports<'a, W> {
    pub fn new(write: W) -> Self {
        Self { write, pods: HashMap::new(), ready: VecDeque::new(), writing: FuturesUnordered::new() }
    }

    pub fn is_full(&self) -> bool {
        self.pods.len() >= PODS
    }

    pub fn is_idle(&self) -> bool {
        self.writing.is_empty()
    }

    /// Takes a report about the pod `uid`. Of those that wait, a newer one of a sort replaces an older one.
    pub fn push(&mut self, uid: Arc<str>, report: NodeMessage) {
        let waiting = self.pods.entry(uid.clone()).or_insert_with(|| {
            self.ready.push_back(uid);
            VecDeque::new()
        });
        waiting.retain(|old| discriminant(old) != discriminant(&report));
        waiting.push_back(report);
        self.begin();
    }

    /// Resolves when a report was written; never where none is being written. Cancel safe.
    pub async fn written(&mut self) {
        let Some(uid) = self.writing.next().await else { return std::future::pending().await };
        if self.pods.get(&uid).is_some_and(VecDeque::is_empty) {
            self.pods.remove(&uid);
        } else {
            self.ready.push_back(uid);
        }
        self.begin();
    }

    fn begin(&mut self) {
        while self.writing.len() < CONCURRENCY
            && let Some(uid) = self.ready.pop_front()
        {
            let Some(report) = self.pods.get_mut(&uid).and_then(VecDeque::pop_front) else { continue };
            let writing = (self.write)(report);
            self.writing.push(Box::pin(async move {
                writing.await;
                uid
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use serde_json::json;
    use tokio::sync::oneshot;

    fn status(uid: &str, phase: &str) -> NodeMessage {
        let status = json!({"phase": phase});
        NodeMessage::PodStatus { namespace: "n".into(), name: uid.into(), uid: uid.into(), status }
    }

    #[tokio::test]
    async fn reports_of_one_pod_are_written_in_order_and_wait_for_no_other_pods() {
        let begun: Mutex<Vec<String>> = Mutex::default();
        let gates: Mutex<HashMap<String, oneshot::Receiver<()>>> = Mutex::default();
        let slow = {
            let (open, gate) = oneshot::channel();
            gates.lock().insert("a Pending".into(), gate);
            open
        };
        let mut reports = PodReports::new(|report| {
            let what = match report {
                NodeMessage::PodStatus { name, status, .. } => {
                    format!("{name} {}", status["phase"].as_str().unwrap())
                }
                NodeMessage::PodTerminated { name, .. } => format!("{name} is gone"),
                other => panic!("{other:?}"),
            };
            begun.lock().push(what.clone());
            let gate = gates.lock().remove(&what);
            Box::pin(async move {
                if let Some(gate) = gate {
                    gate.await.unwrap();
                }
            })
        });
        assert!(reports.is_idle());
        let mut tell = |uid: &str, report: NodeMessage| reports.push(uid.into(), report);
        tell("a", status("a", "Pending"));
        tell("a", status("a", "Running"));
        tell("a", status("a", "Succeeded"));
        tell("a", NodeMessage::PodTerminated { namespace: "n".into(), name: "a".into(), uid: "a".into() });
        tell("b", status("b", "Pending"));
        reports.written().await;
        assert_eq!(*begun.lock(), ["a Pending", "b Pending"]);
        slow.send(()).unwrap();
        for _ in 0..3 {
            reports.written().await;
        }
        // What was never begun is written as the newest alone.
        assert_eq!(begun.lock()[2..], ["a Succeeded", "a is gone"]);
        assert!(reports.is_idle() && !reports.is_full());
    }

    #[tokio::test]
    async fn a_node_with_too_much_to_tell_is_full_until_some_of_it_is_written() {
        let mut reports = PodReports::new(|_| Box::pin(std::future::ready(())));
        (0..PODS).for_each(|pod| reports.push(pod.to_string().into(), status("x", "Running")));
        assert!(reports.is_full());
        reports.written().await;
        assert!(!reports.is_full());
    }
}
