//! An HTTP client for tests.

use std::error::Error;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::timeout;

use crate::TEST_TIMEOUT;

/// A client of one server. It reuses its connections.
#[derive(Clone, Debug)]
pub struct Client {
    client: legacy::Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
}

/// A response that was read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body. All that tests read are text.
    pub body: String,
}

impl Client {
    /// A client of the server at this address.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        let client = legacy::Client::builder(TokioExecutor::new()).build_http();
        Self { client, address }
    }

    /// Sends a request without a body. It panics if there is no response, and no error either,
    /// within [`TEST_TIMEOUT`].
    ///
    /// # Errors
    /// When the connection fails or is closed before the whole response has arrived.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
    ) -> Result<Reply, Box<dyn Error + Send + Sync>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .body(Full::default())?;
        let reply = timeout(TEST_TIMEOUT, async {
            let (head, body) = self.client.request(request).await?.into_parts();
            Ok(Reply {
                status: head.status,
                headers: head.headers,
                body: String::from_utf8(body.collect().await?.to_bytes().into())?,
            })
        });
        let timed_out = |_| panic!("{path} was not answered in {TEST_TIMEOUT:?}");
        reply.await.unwrap_or_else(timed_out)
    }

    /// Sends a GET. `None` when no whole response arrives.
    pub async fn try_get(&self, path: &str) -> Option<Reply> {
        self.send(Method::GET, path).await.ok()
    }

    /// Sends a GET, which must get a response of any status.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path)
            .await
            .unwrap_or_else(|error| panic!("GET {path}: {error:?}"))
    }
}

impl Reply {
    /// The body, as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// A header's value; empty when the header is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("tests read ASCII"))
    }
}
