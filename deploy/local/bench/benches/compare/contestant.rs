//! Other ways to serve requests: the upper limit, the obvious way, and the way of the known
//! implementations.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use clap::ValueEnum;
use serde_json::{Value, json};
use shared::db::Session;
use shared::domain::last_query::Answer;
use shared::domain::last_query::message::{HOLDING_ROW, prepare, send};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgPool, Row as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, oneshot};
use warp::Filter;
use warp::http::Response;
use warp::http::header::CONTENT_TYPE;

const POOL_SIZE: u32 = 10;
/// The most requests that one message answers.
const MAX_BATCH: usize = 4096;
/// As long as a typical response of Max Two.
const STATIC_BODY: &str = r#"{"users":[{"id":323084,"points":82},{"id":595513,"points":52}],"timestamp":"2026-11-24 00:44:09"}"#;

/// A server that Max Two is compared with. All of them use warp's own server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contestant {
    /// Sends a static body. Several share a port, as those of [`Self::HoldsRow`] do.
    BareWarp,
    /// Sends Postgres the durable message of a lone replica for each request, over a pool.
    MessagePerRequest,
    /// A replica of Max Two that never releases the row of the chain early: it answers all waiting
    /// requests with one durable commit. The api has no such setting, so this has a queue of its
    /// own.
    HoldsRow,
    /// Searches two users for each request. Keeps the timestamp in memory: nothing is durable.
    SearchPerRequest,
}

impl Contestant {
    /// Its name on the command line.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::BareWarp => "bare-warp",
            Self::MessagePerRequest => "message-per-request",
            Self::HoldsRow => "holds-row",
            Self::SearchPerRequest => "search-per-request",
        }
    }
}

/// Serves until the process is killed.
pub(crate) async fn serve(
    contestant: Contestant,
    listen: SocketAddr,
    url: &str,
) -> anyhow::Result<()> {
    let pool = PgPoolOptions::new()
        .min_connections(POOL_SIZE)
        .max_connections(POOL_SIZE)
        .after_connect(|session, _| {
            Box::pin(async {
                let prepared = prepare(session).await;
                prepared.map_err(|error| sqlx::Error::Configuration(error.into()))
            })
        })
        .connect(url);
    let root = warp::path::end().and(warp::get());
    match contestant {
        Contestant::BareWarp => {
            let server = warp::serve(root.map(|| respond(STATIC_BODY.to_owned())));
            let server = server.incoming(listen_on_shared_port(listen)?);
            announce(server).run().await;
        }
        Contestant::MessagePerRequest => {
            let pool = pool.await?;
            let server = warp::serve(root.then(move || send_message(pool.clone())));
            announce(server.bind(listen).await).run().await;
        }
        Contestant::HoldsRow => {
            let mut session = Session::connect(url).await?;
            prepare(&mut session).await?;
            let (queue, waiting) = mpsc::channel(MAX_BATCH);
            let server = warp::serve(root.then(move || wait_for_answer(queue.clone())));
            let server = server.incoming(listen_on_shared_port(listen)?);
            let coalescing = tokio::spawn(coalesce(session, waiting));
            announce(server).run().await;
            coalescing.await??;
        }
        Contestant::SearchPerRequest => {
            let pool = pool.await?;
            let last = Arc::new(Mutex::new(None));
            let server = warp::serve(root.then(move || search(pool.clone(), Arc::clone(&last))));
            announce(server.bind(listen).await).run().await;
        }
    }
    Ok(())
}

/// Prints that the server accepts connections.
fn announce<Server>(bound: Server) -> Server {
    println!("listening");
    bound
}

async fn send_message(pool: PgPool) -> Response<String> {
    let answer = async {
        let mut session = pool.acquire().await?;
        send(&mut session, HOLDING_ROW).await
    };
    answer.await.map_or_else(
        |error: shared::db::Error| fail(&error),
        |answer| respond(answer_body(&answer, answer.previous_at)),
    )
}

fn listen_on_shared_port(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

async fn wait_for_answer(queue: mpsc::Sender<oneshot::Sender<String>>) -> Response<String> {
    let answer = async {
        let (reply, answer) = oneshot::channel();
        queue.send(reply).await?;
        anyhow::Ok(answer.await?)
    };
    answer.await.map_or_else(|error| fail(&*error), respond)
}

/// Answers all waiting requests at once, again and again.
async fn coalesce(
    mut session: Session,
    mut waiting: mpsc::Receiver<oneshot::Sender<String>>,
) -> anyhow::Result<()> {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let answer = send(&mut session, HOLDING_ROW).await?;
        let others = answer_body(&answer, Some(answer.queried_at));
        let mut replies = batch.drain(..);
        // A client that has gone waits for none.
        if let Some(first) = replies.next() {
            let _ = first.send(answer_body(&answer, answer.previous_at));
        }
        for reply in replies {
            let _ = reply.send(others.clone());
        }
    }
    Ok(())
}

fn answer_body(answer: &Answer, previous_at: Option<DateTime<Utc>>) -> String {
    let users = answer.users.iter();
    let users = users.map(|user| user_json(user.id, user.points)).collect();
    body(&users, previous_at)
}

async fn search(pool: PgPool, last: Arc<Mutex<Option<DateTime<Utc>>>>) -> Response<String> {
    let found = async {
        let minimum: i32 = sqlx::query_scalar("select min_points from settings")
            .fetch_one(&pool)
            .await?;
        sqlx::query("select id, points from users where points > $1 limit 2")
            .bind(minimum)
            .fetch_all(&pool)
            .await
    };
    match found.await {
        Ok(rows) => {
            let users = rows.iter().map(|row| user_json(row.get(0), row.get(1)));
            let mut last = last.lock().expect("no holder of this lock panics");
            let previous = last.replace(Utc::now());
            drop(last);
            respond(body(&users.collect(), previous))
        }
        Err(error) => fail(&error),
    }
}

fn user_json(id: i64, points: i32) -> Value {
    json!({"id": id, "points": points})
}

fn body(users: &Value, previous: Option<DateTime<Utc>>) -> String {
    let timestamp = previous.map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string());
    json!({"users": users, "timestamp": timestamp}).to_string()
}

fn respond(body: String) -> Response<String> {
    let mut response = Response::new(body);
    response.headers_mut().insert(
        CONTENT_TYPE,
        warp::http::HeaderValue::from_static("application/json"),
    );
    response
}

/// A failed request is counted by its status.
fn fail(error: &dyn std::error::Error) -> Response<String> {
    let mut response = Response::new(error.to_string());
    *response.status_mut() = warp::http::StatusCode::SERVICE_UNAVAILABLE;
    response
}
