//! Logs that were rotated, and readers that are slow.
use crate::runs;
use crate::support::{self, FakeServer, IMAGE};
use pilothouse_protocol::{LogOptions, StreamRequest};
use serde_json::json;

#[test]
fn rotated_logs_are_one_log_to_their_readers() {
    support::run(rotated());
}

async fn rotated() {
    let mut server = FakeServer::start("logs").await;
    server.start_agent();
    server.registered().await;
    // Two files of 10 MB and a part of a third; then it crashes once, and the next attempt says little.
    let script = "if [ -e /data/again ]; then echo second; exec /bin/busybox sleep 3600; fi; /bin/busybox touch /data/again; \
        line=$(/bin/busybox printf '%0400d' 0); i=0; while [ $i -lt 50000 ]; do echo $i $line; i=$((i+1)); done; exit 1";
    let pod = server.pod(
        "chatty",
        json!({
        "containers": [{"name": "main", "image": IMAGE, "command": ["/bin/busybox", "sh", "-c", script],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "emptyDir": {}}]}),
    );
    server.assign(&pod).await;
    server.status(&pod, |s| s["containerStatuses"][0]["restartCount"] == 1 && runs(s)).await;
    let first = LogOptions { previous: true, ..LogOptions::default() };
    let read = async |options: LogOptions| -> String {
        let request =
            StreamRequest::Logs { pod: support::reference(&pod), container: "main".into(), options };
        support::text(&server.stream(request).await)
    };
    let numbers = |text: &str| -> Vec<usize> {
        text.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
    };
    assert_eq!(read(LogOptions::default()).await, "second\n");
    let all = numbers(&read(first.clone()).await);
    assert_eq!(*all.last().unwrap(), 49_999, "the end is there");
    assert!(
        all.len() > 45_000 && all.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "without a gap: {}",
        all.len()
    );
    let tail = numbers(&read(LogOptions { tail_lines: Some(30_000), ..first.clone() }).await);
    assert_eq!((tail.len(), tail[0]), (30_000, 20_000), "across the files");
    let limited =
        read(LogOptions { tail_lines: Some(30_000), limit_bytes: Some(1000), ..first.clone() }).await;
    assert_eq!((limited.len(), limited.split(' ').next()), (1000, Some("20000")));
    let later = LogOptions { since_time: Some("2100-01-01T00:00:00Z".into()), ..first.clone() };
    assert!(read(later).await.is_empty(), "none is from then");
    let since = LogOptions { since_seconds: Some(3600), tail_lines: Some(2), timestamps: true, ..first };
    let stamped = read(since).await;
    assert!(stamped.lines().all(|line| line.starts_with("20") && line.contains("Z 4999")), "{stamped}");
    server.delete(&pod, 1).await;
    server.terminated(&pod).await;
    server.stop_agent().await;
}

/// A reader that does not read costs the agent no memory, and nobody else's stream its turn.
#[test]
fn a_reader_that_does_not_read_holds_back_nobody_else() {
    support::run(slow_reader());
}

async fn slow_reader() {
    let mut server = FakeServer::start("slow").await;
    server.start_agent();
    server.registered().await;
    let pod = server.pod(
        "flood",
        json!({"containers": [{"name": "main", "image": IMAGE,
        "command": ["/bin/busybox", "sleep", "3600"]}]}),
    );
    server.assign(&pod).await;
    server.status(&pod, runs).await;
    let flood = StreamRequest::Exec {
        pod: support::reference(&pod),
        container: "main".into(),
        command: ["/bin/busybox", "yes", "0123456789012345678901234567890123456789"]
            .map(str::to_owned)
            .to_vec(),
        stdin: false,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let before = resident_bytes();
    let held = server.stream_unread(flood).await;
    for _ in 0..20 {
        assert_eq!(server.sh(&pod, "echo still here").await, "still here\n");
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    drop(held);
    server.delete(&pod, 1).await;
    server.terminated(&pod).await;
    server.stop_agent().await;
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}
