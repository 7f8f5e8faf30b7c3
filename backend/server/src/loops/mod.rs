//! The loops that move the state towards what is desired: controllers and scheduler, run by whichever server leads.
mod account_tokens;
mod api_services;
mod certificates;
mod controllers;
mod events;
mod feed;
mod metrics_apis;
mod policy_types;
mod scheduler;
mod work_queue;

pub use certificates::Signing;
pub use events::{EventRecorder, reference};
pub(crate) use metrics_apis::MetricsApis;

use crate::aggregation::Aggregation;
use crate::metrics::Metrics;
use crate::objects::Objects;
use pilothouse_controllers::Settings;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Before the leadership is tried for again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Waits for the leadership, runs all loops while it lasts, and starts over; ends with `shutdown`.
pub(crate) async fn run(
    objects: Objects,
    aggregation: Aggregation,
    metrics: Metrics,
    apis: MetricsApis,
    settings: Settings,
    signing: Signing,
    shutdown: CancellationToken,
) {
    let mut lock = objects.store().leader_lock();
    while !shutdown.is_cancelled() {
        let term = tokio::select! {
            () = shutdown.cancelled() => return,
            term = lock.acquire() => term,
        };
        // What the leader before wrote last may not be here yet; decided without it, it would be done twice.
        if let Err(error) = objects.store().fresh().await {
            tracing::warn!(%error, "leading, but the newest state is not to be had yet");
            lock = objects.store().leader_lock();
            tokio::time::sleep(RETRY_AFTER).await;
            continue;
        }
        let objects = objects.under(term);
        tracing::info!("leading: controllers and scheduler run here");
        let ended = shutdown.child_token();
        let events = EventRecorder::start(objects.clone(), ended.clone());
        let loops = async {
            tokio::join!(
                controllers::run(
                    objects.clone(),
                    metrics.clone(),
                    apis.clone(),
                    settings.clone(),
                    events.clone(),
                    ended.clone()
                ),
                scheduler::run(objects.clone(), events.clone(), ended.clone()),
                certificates::run(objects.clone(), signing.clone(), ended.clone()),
                policy_types::run(objects.clone(), ended.clone()),
                account_tokens::run(objects.clone(), signing.clone(), ended.clone()),
                api_services::run(objects.clone(), aggregation.clone(), ended.clone()),
            );
        };
        tokio::select! {
            () = loops => {}
            () = async { lock.lost().await } => {
                tracing::warn!("another server may lead now: the loops stop here");
                ended.cancel();
            }
        }
        ended.cancel();
    }
}
