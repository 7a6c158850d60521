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
    /// Its share of requests, beside the shares of the others.
    #[serde(deserialize_with = "check::positive")]
    pub share: f64,
    /// The work of its requests; null: that of the trace, the backend or the scenario.
    pub service: Option<Service>,
    /// The status that every backend answers after the work. It is the right response, whatever
    /// it is: one of 500 shows what a URL does that fails everywhere.
    #[serde(deserialize_with = "check::status")]
    pub status: u16,
    /// Whether a request may be sent again after its connection was cut or it was turned away.
    pub idempotent: bool,
    /// Time from the head of a request to its last byte, ms. The backend waits for it; no worker
    /// does. Latencies and timeouts count from the last byte.
    pub upload_ms: Option<Service>,
    /// Time that the client takes for the response once it is there, ms. The exchange stays open;
    /// no worker does. Latencies end where the response begins.
    pub download_ms: Option<Service>,
    /// Time after which the client leaves if the response has not begun, ms.
    pub patience_ms: Option<Service>,
    /// Stream after the response head; null: nothing that takes time.
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

/// A response that goes on after its head.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Stream {
    /// The response to the work is 101; the connection then stays open, silent and without a
    /// worker: an idle WebSocket.
    #[serde(rename_all = "camelCase")]
    Tunnel {
        /// For how long, ms.
        for_ms: Service,
    },
    /// The response begins after the work, then stays open, silent and without a worker: idle
    /// server-sent events.
    #[serde(rename_all = "camelCase")]
    Events {
        /// For how long, ms.
        for_ms: Service,
    },
    /// The head comes at once and the work is the response: tokens of a language model. The
    /// latency that counts is that of the first token.
    #[serde(rename_all = "camelCase")]
    Tokens {
        /// The share of the work after which the first token comes.
        #[serde(deserialize_with = "check::share")]
        first_share: f64,
    },
}
