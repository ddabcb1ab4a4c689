//! Metrics, by their names in Prometheus.
//!
//! Times are histograms in seconds, one for each stage of a request's life. To add a metric: a constant
//! here, a line in [`describe`], a call of the `metrics` macros where it happens.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Counter: requests that a router answered or refused, by `model` and `status` (`ok`, or a refusal's name).
pub const ROUTER_REQUESTS: &str = "graft_router_requests_total";
/// Histogram, seconds: time from a router's having a request whole to its having the answer.
pub const ROUTER_SECONDS: &str = "graft_router_request_seconds";
/// Counter: answers that hold NaN or infinite numbers, by `model`.
pub const ROUTER_NOT_FINITE: &str = "graft_router_not_finite_total";
/// Gauge: requests that a router is waiting for.
pub const ROUTER_IN_FLIGHT: &str = "graft_router_in_flight";
/// Counter: requests that a router sent to another worker, since the first was gone.
pub const ROUTER_RETRIES: &str = "graft_router_retries_total";
/// Counter: times at which a worker gave a router no sign of life for too long, by `worker`.
pub const ROUTER_SILENT: &str = "graft_router_silent_workers_total";
/// Gauge: number (epoch) of the plan that a program works by.
pub const EPOCH: &str = "graft_plan_epoch";
/// Counter: requests at a worker, by `status`.
pub const WORKER_REQUESTS: &str = "graft_worker_requests_total";
/// Histogram, seconds: time from a request's entry into a stage's queue to its first chunk.
pub const WORKER_QUEUE_SECONDS: &str = "graft_worker_queue_seconds";
/// Histogram, seconds: time of one chunk of a batch.
pub const WORKER_CHUNK_SECONDS: &str = "graft_worker_chunk_seconds";
/// Histogram, seconds: time from a worker's having a request to its having the answer.
pub const WORKER_SECONDS: &str = "graft_worker_request_seconds";
/// Histogram: requests in a batch.
pub const WORKER_BATCH: &str = "graft_worker_batch_requests";
/// Counter: batches that gave way to a more urgent one at a cut point.
pub const WORKER_GAVE_WAY: &str = "graft_worker_gave_way_total";
/// Gauge: bytes of tensors that a worker holds for requests.
pub const WORKER_HELD_BYTES: &str = "graft_worker_held_bytes";
/// Histogram, seconds: time to make a plan.
pub const PLANNER_SECONDS: &str = "graft_planner_plan_seconds";
/// Counter: plans, by `outcome` (`rolled_out`, `failed`, `not_worth`: it would have saved too little).
pub const PLANNER_PLANS: &str = "graft_planner_plans_total";
/// Gauge: the plan's total share.
pub const PLANNER_SHARE: &str = "graft_planner_total_share";
/// Gauge: members that a planner sees, by `role`.
pub const PLANNER_MEMBERS: &str = "graft_planner_members";
/// Gauge: time at which a program's certificate is over, in seconds since 1970.
pub const CERTIFICATE_NOT_AFTER: &str = "graft_certificate_not_after_seconds";
/// Log lines that were left out, since there were too many of one cause.
pub const LOG_LINES_LEFT_OUT: &str = "graft_log_lines_left_out_total";
/// 1 while the planner keeps plans in memory alone, since its store can't be used.
pub const PLANNER_STORE_IN_MEMORY: &str = "graft_planner_store_in_memory";

const SECONDS: &[f64] = &[
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
];
const REQUESTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Starts collecting for this process, once. Programs that share a process share its metrics.
pub fn start() {
    HANDLE.get_or_init(|| {
        let built = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
            .and_then(|b| b.set_buckets_for_metric(Matcher::Full(WORKER_BATCH.to_owned()), REQUESTS));
        let recorder = match built {
            Ok(builder) => builder.build_recorder(),
            Err(error) => {
                tracing::error!(%error, "metrics are off");
                return None;
            }
        };
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::error!("metrics are off: another recorder is installed");
            return None;
        }
        describe();
        Some(handle)
    });
}

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(
        ROUTER_REQUESTS,
        "Requests answered or refused, by model and status"
    );
    describe_histogram!(
        ROUTER_SECONDS,
        Unit::Seconds,
        "From having a request whole to having its answer"
    );
    describe_gauge!(ROUTER_IN_FLIGHT, "Requests that are waited for");
    describe_counter!(ROUTER_NOT_FINITE, "Answers that hold NaN or infinite numbers");
    describe_counter!(ROUTER_RETRIES, "Requests sent to another worker");
    describe_counter!(
        ROUTER_SILENT,
        "Times at which a worker gave no sign of life for too long"
    );
    describe_gauge!(EPOCH, "The plan that is worked by");
    describe_counter!(WORKER_REQUESTS, "Requests at a worker, by status");
    describe_histogram!(
        WORKER_QUEUE_SECONDS,
        Unit::Seconds,
        "From entry into a stage's queue to the first chunk"
    );
    describe_histogram!(WORKER_CHUNK_SECONDS, Unit::Seconds, "One chunk of a batch");
    describe_histogram!(
        WORKER_SECONDS,
        Unit::Seconds,
        "From having a request to having its answer"
    );
    describe_histogram!(WORKER_BATCH, "Requests in a batch");
    describe_counter!(
        WORKER_GAVE_WAY,
        "Batches that gave way to a more urgent one at a cut point"
    );
    describe_gauge!(WORKER_HELD_BYTES, Unit::Bytes, "Tensors held for requests");
    describe_histogram!(PLANNER_SECONDS, Unit::Seconds, "Making a plan");
    describe_counter!(PLANNER_PLANS, "Plans, by outcome");
    describe_gauge!(PLANNER_SHARE, "The plan's total share");
    describe_gauge!(PLANNER_MEMBERS, "Members seen, by role");
    describe_gauge!(
        CERTIFICATE_NOT_AFTER,
        Unit::Seconds,
        "Time at which the certificate is over, since 1970"
    );
    describe_counter!(
        LOG_LINES_LEFT_OUT,
        "Log lines left out, since there were too many of one cause"
    );
    describe_gauge!(
        PLANNER_STORE_IN_MEMORY,
        "1 while plans are kept in memory alone, since the store can't be used"
    );
}

/// All metrics in the text format that Prometheus reads. Empty before [`start`].
pub fn render() -> String {
    let handle = HANDLE.get().and_then(Option::as_ref);
    handle
        .map(|h| {
            h.run_upkeep();
            h.render()
        })
        .unwrap_or_default()
}
