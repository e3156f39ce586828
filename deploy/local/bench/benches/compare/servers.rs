//! What a replica is compared with: warp's filters on hyper's server, the upper limit and the
//! obvious way. Both print their address as one line of JSON.

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use shared::domain::last_query::message::{HOLDING_ROW, prepare, send};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use warp::http::header::CONTENT_TYPE;
use warp::reply::Json;
use warp::{Filter, Rejection, Reply, reply};

const SESSIONS: u32 = 10;
/// As long as a typical response of Max Two.
const BODY: &str = r#"{"users":[{"id":323084,"points":82},{"id":595513,"points":52}],"timestamp":"2026-11-24 00:44:09"}"#;

/// Sends a static body.
pub(crate) async fn bare_warp() -> anyhow::Result<()> {
    let root = warp::path::end().and(warp::get());
    let respond = || reply::with_header(BODY, CONTENT_TYPE, "application/json");
    serve(root.map(respond)).await
}

/// Sends Postgres the durable message of a lone replica for each request, over a pool of sessions.
pub(crate) async fn message_per_request(url: &str) -> anyhow::Result<()> {
    let pool = PgPoolOptions::new()
        .min_connections(SESSIONS)
        .max_connections(SESSIONS)
        .after_connect(|session, _| {
            Box::pin(async {
                let prepared = prepare(session).await;
                prepared.map_err(|error| sqlx::Error::Configuration(error.into()))
            })
        })
        .connect(url)
        .await?;
    let root = warp::path::end().and(warp::get());
    serve(root.and_then(move || respond(pool.clone()))).await
}

/// Serves on a free port, without limits or time-outs, until the process is killed.
async fn serve(
    filter: impl Filter<Extract = (impl Reply,), Error = Rejection> + Clone + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", json!({"address": listener.local_addr()?.to_string()}));
    let service = TowerToHyperService::new(warp::service(filter));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let protocol = http1::Builder::new();
        tokio::spawn(protocol.serve_connection(TokioIo::new(stream), service.clone()));
    }
}

async fn respond(pool: PgPool) -> Result<Json, Rejection> {
    // A rejection gets an error status, by which the request counts as failed.
    let mut session = pool.acquire().await.map_err(|_| warp::reject())?;
    let answer = send(&mut session, HOLDING_ROW).await;
    let answer = answer.map_err(|_| warp::reject())?;
    let users = answer.users.iter();
    let users: Vec<_> = users
        .map(|user| json!({"id": user.id, "points": user.points}))
        .collect();
    let timestamp = answer.previous_at.map(|at| at.format("%F %T").to_string());
    Ok(reply::json(
        &json!({"users": users, "timestamp": timestamp}),
    ))
}
