//! The origin of a client connection: its peer, and the client that a trusted peer names in a
//! header field or a PROXY protocol header. `trust.rs` decides which peers are trusted.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use intelliproxy_core::Instant;

use super::Session;
use crate::buffer::Buffer;
use crate::config::ListenTls;
use crate::http::field::{Fields, Name, tokens};
use crate::http::forward::secured_client_fields;
use crate::http::head::Parsed;
use crate::http::proxy_protocol;
use crate::proxy::shared::{Facts, Shared};

/// The peer of a client connection, and the client that it forwards for.
#[derive(Debug)]
pub(crate) struct Hop {
    /// The peer of the socket, or the address in a PROXY protocol header.
    pub(crate) peer: SocketAddr,
    /// Field lines about the peer in forwarded requests.
    pub(crate) fields: Arc<String>,
    /// Whether the peer's address is in `stats.allow`.
    may_see_stats: bool,
    /// Whether the peer's statements about its own clients are trusted (`forwarding.trusted`).
    pub(crate) is_trusted: bool,
    /// Whether a PROXY protocol header must come before the first request.
    pub(crate) awaits_header: bool,
    /// The client of the latest request, as named by a trusted peer.
    pub(crate) forwards_for: Option<IpAddr>,
    /// The peer's group of clients, for the router.
    group: u8,
    /// Whether the connection is counted for the peer (`limits.clientConnections`).
    is_counted: bool,
    /// Properties of the client's listener and TLS; `None` for most clients.
    extras: Option<Box<Extras>>,
}

/// Properties that most clients do not have.
#[derive(Debug, Default)]
struct Extras {
    /// The port of HTTPS to which all requests are redirected.
    redirects_to: Option<u16>,
    /// The line of Strict-Transport-Security for all responses.
    hsts: Option<Box<str>>,
    /// The fields that pass the client's certificate to backends, with their values.
    identity: Vec<(String, String)>,
}

/// The identity in a client's certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientIdentity {
    /// The certificate's subject in the form of RFC 4514, with only visible ASCII and spaces.
    pub subject: String,
    /// The SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
}

impl Hop {
    pub(crate) fn new(peer: SocketAddr, shared: &mut Shared) -> Self {
        let Facts { fields, may_see_stats, is_trusted, group } = shared.client_facts(peer.ip());
        Self {
            peer,
            fields,
            may_see_stats,
            is_trusted,
            awaits_header: false,
            forwards_for: None,
            group,
            is_counted: false,
            extras: None,
        }
    }

    /// The port of HTTPS to which all requests are redirected.
    #[inline]
    pub(super) fn redirects_to(&self) -> Option<u16> {
        self.extras.as_ref().and_then(|extras| extras.redirects_to)
    }

    /// The line of Strict-Transport-Security for all responses.
    #[inline]
    pub(super) fn hsts(&self) -> Option<&str> {
        self.extras.as_ref().and_then(|extras| extras.hsts.as_deref())
    }

    /// The value of a field that passes the client's certificate to backends.
    pub(super) fn identity(&self, field: &str) -> Option<&str> {
        let mut fields = self.extras.iter().flat_map(|extras| &extras.identity);
        fields.find(|(name, _)| name == field).map(|(_, value)| value.as_str())
    }

    /// Handles a new configuration; the client of the current request stays.
    pub(super) fn handle_reconfigured(&mut self, is_refused: bool, shared: &mut Shared) {
        self.may_see_stats = shared.trust.may_see_stats(self.peer.ip());
        self.is_trusted = shared.trust.trusts(self.peer.ip());
        // The counts of connections begin again.
        self.is_counted = false;
        if !is_refused {
            self.count_anyway(shared);
        }
    }

    /// Records that the peer uses TLS.
    fn secure(&mut self, tls: &ListenTls, identity: Option<&ClientIdentity>) {
        self.fields = secured_client_fields(self.peer.ip()).into();
        let ListenTls { hsts, client_auth, .. } = tls;
        if hsts.is_none() && identity.is_none() {
            return;
        }
        let extras = self.extras.get_or_insert_default();
        extras.hsts = hsts.as_ref().map(|value| format!("{HSTS}: {value}\r\n").into());
        if let (Some(auth), Some(identity)) = (client_auth, identity) {
            let fields = [
                (&auth.subject_field, &identity.subject),
                (&auth.fingerprint_field, &identity.fingerprint),
            ];
            let fields =
                fields.into_iter().filter_map(|(name, value)| Some((name.clone()?, value)));
            extras.identity = fields.map(|(name, value)| (name, value.clone())).collect();
        }
    }

    /// Reads the client from a request's head if the peer is trusted.
    #[cold]
    pub(super) fn take_origin(&mut self, fields: &Fields<'_, '_>, shared: &Shared) {
        let origin = || shared.trust.client(fields, self.peer.ip());
        self.forwards_for = self.is_trusted.then(origin);
    }

    /// Returns the client: the peer, or the client that a trusted peer named. The port of the
    /// latter is unknown, so it is 0.
    pub(crate) fn client(&self) -> SocketAddr {
        match self.forwards_for {
            Some(ip) if ip != self.peer.ip() => SocketAddr::new(ip, 0),
            _ => self.peer,
        }
    }

    /// Whether the client uses https, to this proxy or to the trusted hop before it.
    pub(super) fn is_secure(&self, fields: &Fields<'_, '_>) -> bool {
        let said = fields.values(Name::XForwardedProto).next().filter(|_| self.is_trusted);
        match said {
            // Each hop may add its own; the first one saw the client.
            Some(protos) => {
                tokens(protos).next().is_some_and(|it| it.eq_ignore_ascii_case(b"https"))
            }
            None => self.fields.contains("\r\nX-Forwarded-Proto: https"),
        }
    }

    /// Returns the client's group, for the router.
    #[inline]
    pub(super) fn group(&self, shared: &Shared) -> u8 {
        match self.forwards_for {
            None => self.group,
            Some(ip) => shared.askers.client(ip),
        }
    }

    /// Counts the connection for its peer, unless that is a trusted hop. Returns false if the peer
    /// has the maximum number of connections.
    #[cold]
    pub(super) fn count(&mut self, shared: &mut Shared) -> bool {
        let ip = self.peer.ip();
        let has_room = self.is_trusted || shared.per_client.has_room(ip);
        if has_room {
            self.count_anyway(shared);
        }
        has_room
    }

    /// Counts the connection for its peer, even beyond the limit.
    #[cold]
    pub(super) fn count_anyway(&mut self, shared: &mut Shared) {
        self.is_counted = !self.is_trusted && shared.per_client.limits_connections();
        if self.is_counted {
            shared.per_client.join(self.peer.ip());
        }
    }

    /// Stops counting the connection for its peer.
    #[inline]
    pub(super) fn uncount(&mut self, shared: &mut Shared) {
        if self.is_counted {
            self.is_counted = false;
            shared.per_client.leave(self.peer.ip());
        }
    }

    /// Returns the address for which a request counts; `None` if that is a trusted hop, which has
    /// no limits.
    #[cold]
    pub(super) fn limited(&self, shared: &Shared) -> Option<IpAddr> {
        match self.forwards_for {
            Some(ip) => (!shared.trust.trusts(ip)).then_some(ip),
            None => (!self.is_trusted).then_some(self.peer.ip()),
        }
    }

    /// Whether the connection is counted for its peer.
    pub(super) const fn is_counted(&self) -> bool {
        self.is_counted
    }

    /// Whether a request for /stats may be meant for the proxy.
    pub(crate) const fn may_ask_for_stats(&self) -> bool {
        self.may_see_stats || self.is_trusted
    }

    /// Whether the current configuration allows the client of the current request to read /stats. A
    /// client named by the peer is valid only while the peer is trusted.
    pub(crate) fn may_still_see_stats(&self, shared: &Shared) -> bool {
        let client = self.client().ip();
        let is_named = client != self.peer.ip();
        (self.is_trusted || !is_named) && shared.trust.may_see_stats(client)
    }
}

/// The field that tells browsers to use only HTTPS (RFC 6797).
pub(crate) const HSTS: &str = "Strict-Transport-Security";

impl Session {
    /// Expects a PROXY protocol header if the peer is a trusted hop. From any other peer such a
    /// header is an invalid request.
    pub(crate) const fn expect_proxy_header(&mut self) {
        self.client.hop.awaits_header = self.client.hop.is_trusted;
    }

    /// Handles the end of the TLS handshake, at which the wait for the first request begins.
    pub(crate) fn handle_secured(
        &mut self,
        now: Instant,
        tls: &ListenTls,
        identity: Option<&ClientIdentity>,
    ) {
        self.client.last_read = now;
        self.client.hop.secure(tls, identity);
    }

    /// The peer.
    pub(crate) const fn peer(&self) -> SocketAddr {
        self.client.hop.peer
    }

    /// Whether the connection must begin with a PROXY protocol header.
    pub(crate) const fn awaits_proxy_header(&self) -> bool {
        self.client.hop.awaits_header
    }

    /// Redirects all requests to this HTTPS port.
    pub(crate) fn expect_redirect(&mut self, port: u16) {
        self.client.hop.extras.get_or_insert_default().redirects_to = Some(port);
    }

    /// J1, before the first request: reads a PROXY protocol header.
    #[cold]
    pub(super) fn take_proxy_header(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let client = &mut self.client;
        let Some(input) = &mut client.input else { return false };
        match proxy_protocol::parse(input.bytes()) {
            Ok(Parsed::Complete(header)) => {
                input.consume(header.len);
                self.adopt_source(now, header.source, shared);
                true
            }
            Ok(Parsed::Partial) if client.is_eof => {
                self.needs.close(false);
                true
            }
            Ok(Parsed::Partial) => false,
            Err(error) => {
                self.fail_client(now, error, shared);
                true
            }
        }
    }

    /// Replaces the peer by the client that a PROXY protocol header names.
    #[cold]
    pub(crate) fn adopt_source(
        &mut self,
        now: Instant,
        source: Option<SocketAddr>,
        shared: &mut Shared,
    ) {
        let client = &mut self.client;
        client.hop.awaits_header = false;
        if let Some(source) = source {
            client.hop.uncount(shared);
            let extras = client.hop.extras.take();
            client.hop = Hop { extras, ..Hop::new(source, shared) };
            if shared.per_client.limits_connections() && !client.hop.count(shared) {
                self.refuse_connection(now, shared);
                return;
            }
        }
        client.last_read = now;
        let has_more = client.input.as_ref().is_some_and(|input| !Buffer::is_empty(input));
        client.head_since = has_more.then_some(now);
    }
}
