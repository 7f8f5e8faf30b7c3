//! `pilothouse hollow`: thousands of simulated nodes in one process, for tests of scale.
use crate::options::HollowOptions;
use anyhow::{Context, Result, bail};
use pilothouse_hollow::{Behavior, Size, Span};
use tokio_util::sync::CancellationToken;

/// Files a process needs beside its lines.
const FILES_BESIDE: u64 = 64;
/// How often the nodes that have joined are told of.
const TOLD_EVERY: usize = 500;

pub async fn run(options: HollowOptions) -> Result<()> {
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let files = crate::limits::raise_open_files();
    let wanted = u64::from(options.nodes) + FILES_BESIDE;
    if files < wanted {
        bail!(
            "{} nodes need {wanted} open files, and this process may have {files}: raise `ulimit -Hn`",
            options.nodes
        );
    }
    let nodes = usize::try_from(options.nodes).unwrap_or(usize::MAX);
    let behavior = Behavior {
        seed: options.seed,
        sandbox_millis: options.sandbox_millis,
        start_millis: options.start_millis,
        ready_seconds: options.ready_seconds,
        run_seconds: options.run_seconds,
        failures: options.failures,
        ..Behavior::default()
    };
    let run = pilothouse_hollow::Options {
        server_url: options.server,
        ca_pem: read(&options.ca_file)?,
        join_token: read(&options.join_token_file)?.trim().to_owned(),
        nodes,
        prefix: options.prefix,
        host_ip: options.host_ip.to_string(),
        size: Size { cpu: options.cpu, memory: options.memory, pods: options.pods },
        behavior,
    };
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        crate::server::asked_to_stop().await;
        stop.cancel();
    });
    let tell = move |joined: usize| {
        if joined == nodes {
            println!("all {nodes} nodes have joined");
        } else if joined.is_multiple_of(TOLD_EVERY) {
            println!("{joined} nodes have joined");
        }
    };
    pilothouse_hollow::run(run, tell, shutdown).await
}

/// `80..250` or `5`, in whatever unit the option has.
pub fn span(text: &str) -> Result<Span, String> {
    let number = |text: &str| text.parse::<i64>().map_err(|_| format!("{text:?} is no whole number"));
    let (shortest, longest) = match text.split_once("..") {
        Some((shortest, longest)) => (number(shortest)?, number(longest)?),
        None => (number(text)?, number(text)?),
    };
    match 0 <= shortest && shortest <= longest {
        true => Ok(shortest..=longest),
        false => Err(format!("{text:?} does not go from a shorter to a longer time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_number_or_two() {
        assert_eq!(span("80..250"), Ok(80..=250));
        assert_eq!(span("5"), Ok(5..=5));
        assert!(span("9..3").is_err() && span("-1").is_err() && span("soon").is_err());
    }
}
