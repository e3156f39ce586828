//! The two servers that a replica is compared with, of warp's filters on hyper's server: one only
//! responds, which is the upper limit; the other sends Postgres a message per request, which is the
//! obvious way. Both log what a replica logs when it is ready.

use std::env;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use shared::domain::last_query::message::{SINGLE_COMMIT, prepare, send};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use warp::http::header::CONTENT_TYPE;
use warp::{Filter, Rejection, Reply, reply};

const SESSIONS: u32 = 10;
/// As long as a typical response of Max Two.
const BODY: &str = r#"{"users":[{"id":323084,"points":82},{"id":595513,"points":52}],"timestamp":"2026-11-24 00:44:09"}"#;

/// Only responds.
pub(crate) async fn bare_warp() -> anyhow::Result<()> {
    let root = warp::path::end().and(warp::get());
    serve(root.map(response)).await
}

/// Sends Postgres the durable message of a lone replica for each request, over a pool of sessions.
pub(crate) async fn message_per_request() -> anyhow::Result<()> {
    let pool = PgPoolOptions::new()
        .min_connections(SESSIONS)
        .max_connections(SESSIONS)
        .after_connect(|session, _| {
            Box::pin(async {
                let prepared = prepare(session).await;
                prepared.map_err(|error| sqlx::Error::Configuration(error.into()))
            })
        })
        .connect(&env::var("DATABASE_URL")?)
        .await?;
    let root = warp::path::end().and(warp::get());
    serve(root.and_then(move || respond(pool.clone()))).await
}

async fn respond(pool: PgPool) -> Result<impl Reply, Rejection> {
    // A rejection gets an error status, by which the request counts as failed.
    let mut session = pool.acquire().await.map_err(|_| warp::reject())?;
    let answer = send(&mut session, SINGLE_COMMIT).await;
    answer.map(|_| response()).map_err(|_| warp::reject())
}

fn response() -> impl Reply {
    reply::with_header(BODY, CONTENT_TYPE, "application/json")
}

/// Serves on a free port, without limits or time-outs, until the process is killed.
async fn serve(
    filter: impl Filter<Extract = (impl Reply,), Error = Rejection> + Clone + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    println!(
        "{}",
        json!({"event": "database_connected", "listen": address})
    );
    let service = TowerToHyperService::new(warp::service(filter));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let protocol = http1::Builder::new();
        tokio::spawn(protocol.serve_connection(TokioIo::new(stream), service.clone()));
    }
}
