//! Other ways to answer: the limit, the natural way, and that of the known implementations.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use clap::ValueEnum;
use serde_json::json;
use shared::last_query;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Row as _};
use warp::Filter;
use warp::http::Response;
use warp::http::header::CONTENT_TYPE;

/// Sessions of a pool.
const POOL: u32 = 10;
/// As many bytes as an answer has.
const BODY: &str = r#"{"users":[{"id":323084,"points":82},{"id":595513,"points":52}],"timestamp":"2026-11-24 00:44:09"}"#;

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// With the same bytes, always, by warp's own server.
    Bare,
    /// With a durable statement for each request, over a pool.
    Each,
    /// With a search for two users for each request, and the time in the process's memory: durable in nothing.
    Search,
}

impl Way {
    /// As the command line has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Each => "each",
            Self::Search => "search",
        }
    }
}

/// Answers in this way until the process ends.
pub(crate) async fn serve(way: Way, listen: SocketAddr, url: &str) -> anyhow::Result<()> {
    let pool = PgPoolOptions::new()
        .min_connections(POOL)
        .max_connections(POOL)
        .connect(url);
    let root = warp::path::end().and(warp::get());
    match way {
        Way::Bare => {
            let server = warp::serve(root.map(|| respond(BODY.to_owned())));
            announced(server.bind(listen).await).run().await;
        }
        Way::Each => {
            let pool = pool.await?;
            let server = warp::serve(root.then(move || each(pool.clone())));
            announced(server.bind(listen).await).run().await;
        }
        Way::Search => {
            let pool = pool.await?;
            let last = Arc::new(Mutex::new(None));
            let server = warp::serve(root.then(move || search(pool.clone(), Arc::clone(&last))));
            announced(server.bind(listen).await).run().await;
        }
    }
    Ok(())
}

/// Says that connections are accepted.
fn announced<Server>(bound: Server) -> Server {
    println!("listening");
    bound
}

async fn each(pool: PgPool) -> Response<String> {
    let answer = async {
        let mut connection = pool.acquire().await?;
        last_query::answer(&mut connection).await
    };
    answer.await.map_or_else(
        |error: shared::db::Error| failure(&error),
        |answer| respond(body(&json!(answer.users), answer.previous_at)),
    )
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
            let users = rows
                .iter()
                .map(|row| json!({"id": row.get::<i64, _>(0), "points": row.get::<i32, _>(1)}))
                .collect();
            let mut last = last.lock().expect("nothing panics with this lock");
            let previous = last.replace(Utc::now());
            drop(last);
            respond(body(&users, previous))
        }
        Err(error) => failure(&error),
    }
}

fn body(users: &serde_json::Value, previous: Option<DateTime<Utc>>) -> String {
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

/// An error counts: the client sees its status.
fn failure(error: &dyn std::error::Error) -> Response<String> {
    let mut response = Response::new(error.to_string());
    *response.status_mut() = warp::http::StatusCode::SERVICE_UNAVAILABLE;
    response
}
