// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The server's side: one task per connection, everything bounded.
//!
//! A client may send garbage, stop half-way or never read: it costs one of [`CONNECTION_COUNT_MAX`] places
//! for at most [`CONNECTION_DEADLINE`], and nothing else. One request per connection keeps that rule simple.
//! Connections come from the launcher, which has checked the peer's credentials in its own user namespace.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ipc::migration::LANES_MAX;
use ipc::protocol::budget;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::command::{Command, Handle, MigrationOrder};
use super::passed::{PASSED_MAX, Passed};
use super::types::{
    DIRTY_RATE_MS_MAX, DirtyRate, DirtyRateRequest, Inspected, MigrateRequest, Migrated, Process,
    ResolveRequest, RestartRequest, Restarted, SaveRestored, Status,
};
use crate::coordinator::spans;
use crate::problem::{Class, Problem};

/// Connections served at once; the next ones wait for a place.
pub const CONNECTION_COUNT_MAX: usize = 16;
/// Connections that wait for a place; the next one is closed unanswered.
pub const WAITING_COUNT_MAX: usize = 100;
/// How long one waits: every place is free again after a head that never ends.
pub const PLACE_DEADLINE: Duration = Duration::from_secs(10);
/// The largest body of any request.
pub const BODY_LEN_MAX: usize = 4096;
/// Request line and headers together; hyper takes no less than 8 KiB.
const HEAD_LEN_MAX: usize = 8192;
/// Headers of a request.
const HEADER_COUNT_MAX: usize = 32;
/// From the first byte to the end of the headers.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// Of it, what is left to who was silent: the timer takes no less.
const HEAD_REST: Duration = Duration::from_millis(1);
/// For the body and the work: the longest is a restart into a program that is long in being copied, whose processes are
/// all as late as they may be: as late as in a save/restore.
pub const REQUEST_DEADLINE: Duration = budget::sum(&[spans::COPY_DEADLINE, spans::MOVE_SPAN, budget::SLACK]);
/// For all of it, with the time a slow reader gets for the answer.
pub const CONNECTION_DEADLINE: Duration = budget::sum(&[REQUEST_DEADLINE, Duration::from_secs(10)]);
/// For a migration, whose rounds take as long as RAM and network have it: each step in it has a deadline of its own.
pub const MIGRATION_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest that one connection is open: as a request that takes long has it.
#[derive(Clone, Default)]
struct Patience(Arc<AtomicBool>);

/// Serves connections, at most [`CONNECTION_COUNT_MAX`] at once.
#[derive(Clone)]
pub struct Server {
    routes: Router,
    places: Arc<Semaphore>,
    /// Places and waiting room together.
    room: Arc<Semaphore>,
}

impl Server {
    /// A server over `handle`.
    pub fn new(handle: Handle) -> Self {
        Self {
            routes: routes(handle),
            places: Arc::new(Semaphore::new(CONNECTION_COUNT_MAX)),
            room: Arc::new(Semaphore::new(CONNECTION_COUNT_MAX + WAITING_COUNT_MAX)),
        }
    }

    /// Serves one connection on a task of its own; closes it at once if even the waiting room is full.
    pub fn serve(&self, stream: UnixStream) {
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            tracing::warn!(waiting = WAITING_COUNT_MAX, "control connection refused: too many wait already");
            return;
        };
        let places = Arc::clone(&self.places);
        let patience = Patience::default();
        let routes = self.routes.clone().layer(Extension(patience.clone()));
        tokio::spawn(async move {
            let Ok(Ok(place)) = timeout(PLACE_DEADLINE, places.acquire_owned()).await else {
                tracing::warn!(places = CONNECTION_COUNT_MAX, "control connection refused: no place in time");
                return;
            };
            let begun = Instant::now();
            let passed = Passed::of(&stream, HEAD_DEADLINE).await;
            let service = TowerToHyperService::new(routes.layer(Extension(passed)));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE.saturating_sub(begun.elapsed()).max(HEAD_REST))
                .max_buf_size(HEAD_LEN_MAX)
                .max_headers(HEADER_COUNT_MAX)
                .keep_alive(false)
                // A client may close its sending side after the request (`nc -N`, socat) and still wait for the
                // answer. One that is gone looks the same: its command is carried out, and the answer is not read.
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = pin!(connection);
            let served = match timeout(CONNECTION_DEADLINE, connection.as_mut()).await {
                Err(_) if patience.0.load(Ordering::Relaxed) => timeout(MIGRATION_DEADLINE, connection).await,
                served => served,
            };
            match served {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "control connection ended early"),
                Err(_) => tracing::debug!("control connection cut off at its deadline"),
            }
            drop((place, room));
        });
    }

    /// Waits until no connection is open, at most `span`, so that the last answers are sent before the end.
    pub async fn drain(&self, span: Duration) {
        let every = u32::try_from(CONNECTION_COUNT_MAX + WAITING_COUNT_MAX).unwrap_or(u32::MAX);
        // After a timeout too the caller ends: a client that does not read its answer was given enough time.
        let _ = timeout(span, self.room.acquire_many(every)).await;
    }
}

fn routes(handle: Handle) -> Router {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/processes", get(processes))
        .route("/v1/inspect", get(inspect))
        .route("/v1/pause", post(pause))
        .route("/v1/resume", post(resume))
        .route("/v1/stop", post(stop))
        .route("/v1/save-restore", post(save_restore))
        .route("/v1/restart", post(restart))
        .route("/v1/migrate/cancel", post(cancel))
        .route("/v1/migrate/resolve", post(resolve))
        .route("/v1/dirty-rate", post(dirty_rate));
    #[cfg(debug_assertions)]
    let router = router.route("/v1/probe", post(probe));
    router
        .fallback(async || (StatusCode::NOT_FOUND, Json(no_such("path"))))
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, Json(no_such("method"))))
        .layer(from_fn(deadline))
        .route("/v1/migrate", post(migrate))
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .with_state(handle)
}

async fn deadline(request: Request, next: Next) -> Response {
    timeout(REQUEST_DEADLINE, next.run(request)).await.unwrap_or_else(|_| {
        let problem = Problem::host(
            format!("the request took longer than {} s", REQUEST_DEADLINE.as_secs()),
            "control API",
            "ask for the status; the VM may still be working on it",
        );
        (StatusCode::GATEWAY_TIMEOUT, Json(problem)).into_response()
    })
}

fn no_such(kind: &'static str) -> Problem {
    Problem::usage(
        format!("the control API has no such {kind}"),
        "request line",
        "use one of GET /v1/status, GET /v1/processes, GET /v1/inspect, POST /v1/pause, /v1/resume, /v1/stop, /v1/save-restore, /v1/restart, /v1/migrate, /v1/migrate/cancel, /v1/migrate/resolve, /v1/dirty-rate",
    )
}

/// A problem as an answer.
struct Refusal(Problem);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = match self.0.class {
            Class::Usage => StatusCode::BAD_REQUEST,
            Class::State => StatusCode::CONFLICT,
            Class::Host | Class::Died | Class::Unreachable => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, Json(self.0)).into_response()
    }
}

type Answered<T> = Result<Json<T>, Refusal>;

async fn status(State(handle): State<Handle>) -> Json<Status> {
    Json(handle.snapshot.borrow().status_now())
}

async fn processes(State(handle): State<Handle>) -> Json<Vec<Process>> {
    Json(handle.snapshot.borrow().processes.clone())
}

async fn inspect(State(handle): State<Handle>) -> Json<Vec<Inspected>> {
    Json(handle.inspect().await)
}

async fn pause(State(handle): State<Handle>) -> Answered<Status> {
    handle.ask(Command::Pause).await.map(Json).map_err(Refusal)
}

async fn resume(State(handle): State<Handle>) -> Answered<Status> {
    handle.ask(Command::Resume).await.map(Json).map_err(Refusal)
}

async fn stop(State(handle): State<Handle>) -> Answered<Status> {
    handle.stop().await.map(Json).map_err(Refusal)
}

async fn save_restore(State(handle): State<Handle>) -> Answered<SaveRestored> {
    handle.ask(Command::SaveRestore).await.map(Json).map_err(Refusal)
}

async fn restart(State(handle): State<Handle>, body: Body) -> Answered<Restarted> {
    let request: RestartRequest = parsed(body, "send {\"process\": \"smmu0\"}")?;
    handle.ask(|answer| Command::Restart(request, answer)).await.map(Json).map_err(Refusal)
}

async fn migrate(
    State(handle): State<Handle>,
    Extension(patience): Extension<Patience>,
    Extension(passed): Extension<Passed>,
    body: Body,
) -> Answered<Migrated> {
    let request: MigrateRequest = parsed(body, "send {\"to\": \"unix:/path\"}, and what else it takes")?;
    if !(1..=LANES_MAX).contains(&request.lane_count) {
        let what = format!("{} connections are not possible", request.lane_count);
        let advice = "send a \"lane_count\" from 1 to 16";
        return Err(Refusal(Problem::usage(what, "request body", advice)));
    }
    let passed = passed.take();
    let wanted = if request.tls_peer.is_some() { PASSED_MAX } else { 0 };
    if passed.len() != wanted {
        let what =
            format!("{} files of an identity come with the request, and {wanted} are needed", passed.len());
        let advice =
            "use `bulkhead migrate`, with all of --tls-ca, --tls-cert, --tls-key and --tls-peer, or none";
        return Err(Refusal(Problem::usage(what, "request", advice)));
    }
    patience.0.store(true, Ordering::Relaxed);
    handle.ask(|answer| Command::Migrate(request, passed, answer)).await.map(Json).map_err(Refusal)
}

async fn cancel(State(handle): State<Handle>) -> Answered<Status> {
    handle.order(MigrationOrder::Cancel).await.map(Json).map_err(Refusal)
}

async fn resolve(State(handle): State<Handle>, body: Body) -> Answered<Status> {
    let request: ResolveRequest = parsed(body, "send {\"resume\": true} or false")?;
    handle.order(|answer| MigrationOrder::Resolve(request, answer)).await.map(Json).map_err(Refusal)
}

async fn dirty_rate(State(handle): State<Handle>, body: Body) -> Answered<DirtyRate> {
    let advice = "send {\"span_ms\": 1000}, from 1 to 10000";
    let DirtyRateRequest { span_ms } = parsed(body, advice)?;
    if !(1..=DIRTY_RATE_MS_MAX).contains(&span_ms) {
        let what = format!("nothing can be measured in {span_ms} ms");
        return Err(Refusal(Problem::usage(what, "request body", advice)));
    }
    let span = Duration::from_millis(span_ms);
    handle.ask(|answer| Command::DirtyRate(span, answer)).await.map(Json).map_err(Refusal)
}

/// The body of a request, if it could be read.
type Body = Result<axum::body::Bytes, axum::extract::rejection::BytesRejection>;

/// The request in a body.
fn parsed<T: DeserializeOwned>(body: Body, advice: &'static str) -> Result<T, Refusal> {
    let refuse = |what: String| Refusal(Problem::usage(what, "request body", advice));
    let body = body.map_err(|rejection| refuse(rejection.body_text()))?;
    serde_json::from_slice(&body).map_err(|error| refuse(error.to_string()))
}

#[cfg(debug_assertions)]
async fn probe(State(handle): State<Handle>, body: Body) -> Answered<super::types::ProbeAnswer> {
    let request = parsed(body, "send {\"process\": \"smmu0\", \"attempt\": \"open\"} in at most 4 KiB")?;
    handle.ask(|answer| Command::Probe(request, answer)).await.map(Json).map_err(Refusal)
}
