//! Classes of requests: their cost, their clients and their streams. Plain data.
use serde::{Deserialize, Serialize};

use super::check;
use super::service::Service;

/// Requests of one kind.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RequestClass {
    /// Its name; faults refer to it.
    pub name: String,
    /// Its share of requests, relative to the shares of the other classes.
    #[serde(deserialize_with = "check::positive")]
    pub share: f64,
    /// The work of its requests; null: the work given by the trace, the backend or the scenario.
    pub service: Option<Service>,
    /// The status that every backend sends after the work. It counts as the right response even if
    /// it is an error: a class with 500 represents a URL that fails everywhere.
    #[serde(deserialize_with = "check::status")]
    pub status: u16,
    /// Whether a request may be repeated after a cut connection or a refusal.
    pub idempotent: bool,
    /// Time from the head of a request to its last byte, ms. The backend waits for it without using
    /// a worker. Latencies and timeouts count from the last byte.
    pub upload_ms: Option<Service>,
    /// Time in which the client reads the response once it has begun, ms. The exchange stays open
    /// without using a worker. Latencies end at the beginning of the response.
    pub download_ms: Option<Service>,
    /// Time after which the client leaves if the response has not begun, ms.
    pub patience_ms: Option<Service>,
    /// The stream after the response head; null: the response ends with its work.
    pub stream: Option<Stream>,
}

impl Default for RequestClass {
    fn default() -> Self {
        Self {
            name: "requests".to_owned(),
            share: 1.0,
            service: None,
            status: 200,
            idempotent: true,
            upload_ms: None,
            download_ms: None,
            patience_ms: None,
            stream: None,
        }
    }
}

/// A response that continues after its head.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Stream {
    /// After the work the response is 101. The connection then stays open and silent without using
    /// a worker, like an idle WebSocket.
    #[serde(rename_all = "camelCase")]
    Tunnel {
        /// Duration, ms.
        for_ms: Service,
    },
    /// The response begins after the work. It then stays open and silent without using a worker,
    /// like idle server-sent events.
    #[serde(rename_all = "camelCase")]
    Events {
        /// Duration, ms.
        for_ms: Service,
    },
    /// The head is sent at once, and the work produces the rest: the tokens of a language model.
    /// The latency is that of the first token.
    #[serde(rename_all = "camelCase")]
    Tokens {
        /// The share of the work after which the first token is sent.
        #[serde(deserialize_with = "check::share")]
        first_share: f64,
    },
}
