//! The access log's part in the proxy: collects the facts about each exchange as plain data.
//! `edge/access/` writes the lines.
//!
//! While an exchange is in progress its session has a [`Visit`]. At its end the visit becomes a
//! [`Record`] in a block ([`Records`]), which the driver takes and writes. If no log, added field
//! or backend id is configured, there are no visits, and each step costs one branch. Records do not
//! allocate: a block holds their texts one after the other. Blocks and visits are reused.
//!
//! Most proxies have no visits. The two `inline(never)` attributes keep the code of visits out of
//! that of every exchange.
mod ids;
mod record;
mod visit;

use intelliproxy_core::Instant;

pub(crate) use self::ids::Ids;
pub(crate) use self::record::{Ending, Record, Records, Span, Text, Texts, Why};
pub(crate) use self::visit::Visit;
use crate::config::{Config, RequestIdRules};
use crate::http::forward::AddedField;
use crate::http::head::RequestHead;
use crate::pages::AccessCounts;

/// The records that the driver has not yet taken, and visits for reuse.
#[derive(Debug, Default)]
pub(crate) struct Access {
    /// Whether exchanges have visits.
    is_on: bool,
    /// Whether visits become records.
    is_logged: bool,
    /// Whether responses get fields from their visits.
    adds_fields: bool,
    /// The field that names backend and rule.
    route_field: Option<String>,
    ids: Ids,
    /// Whether the query is removed from recorded targets.
    cuts_queries: bool,
    records: Records,
    #[expect(clippy::vec_box, reason = "a visit moves to its session and back without a copy")]
    spares: Vec<Box<Visit>>,
    /// Visits in progress, for the invariant that each ends.
    open: u64,
    /// Exchanges recorded so far.
    lines: u64,
    /// Records lost because too many were waiting for the driver.
    lost: u64,
    /// The driver's own counts.
    driver: AccessCounts,
}

impl Access {
    /// `seed` differs from instance to instance.
    pub(crate) fn new(config: &Config, seed: u64) -> Self {
        let mut access = Self { ids: Ids::new(seed), ..Self::default() };
        access.reconfigure(config);
        access
    }

    /// Applies a new configuration. An exchange in progress is recorded if it has a visit and the
    /// log is on at its end.
    pub(crate) fn reconfigure(&mut self, config: &Config) {
        self.ids.reconfigure(&config.request_id);
        self.route_field.clone_from(&config.forwarding.route_field);
        self.is_logged = config.access_log.file.is_some();
        self.adds_fields = self.route_field.is_some() || config.request_id.to_client;
        self.is_on = self.is_logged || self.adds_fields || config.request_id.to_backend;
        self.cuts_queries = !config.access_log.query;
        if !self.is_on {
            self.spares = Vec::new();
        }
    }

    /// Whether exchanges have visits.
    pub(crate) const fn is_on(&self) -> bool {
        self.is_on
    }

    /// Starts a visit.
    pub(crate) fn begin(&mut self, started: Instant) -> Box<Visit> {
        self.open += 1;
        let mut visit = self.spares.pop().unwrap_or_default();
        visit.begin(started, self.cuts_queries);
        visit
    }

    /// Starts a visit for a request with a complete head.
    #[inline(never)]
    pub(crate) fn begin_request(
        &mut self,
        now: Instant,
        started: Instant,
        head: &RequestHead<'_, '_>,
        is_trusted: bool,
    ) -> Box<Visit> {
        let mut visit = self.begin(started);
        visit.take_head(now, head, &mut self.ids, is_trusted);
        visit
    }

    /// Returns the id of a request for its backend, with the name of its field.
    pub(crate) fn id_for_backend<'a>(&'a self, visit: Option<&'a Visit>) -> Option<AddedField<'a>> {
        let RequestIdRules { field, to_backend, .. } = self.ids.rules();
        let id = visit.filter(|_| *to_backend)?.text(Text::RequestId);
        Some(AddedField { name: field, value: Some(id) })
    }

    /// Whether responses get fields from their visits.
    pub(crate) const fn adds_fields(&self) -> bool {
        self.adds_fields
    }

    /// Returns the names of the fields that responses get.
    pub(crate) fn added_names(&self) -> [Option<&str>; 2] {
        let RequestIdRules { field, to_client, .. } = self.ids.rules();
        [to_client.then_some(field.as_str()), self.route_field.as_deref()]
    }

    /// Appends the field lines that a response gets.
    pub(crate) fn push_fields(&self, visit: Option<&Visit>, lines: &mut String) {
        let Some(visit) = visit else { return };
        let [id_field, route_field] = self.added_names();
        let text = |text| str::from_utf8(visit.text(text)).unwrap_or_default();
        let id = text(Text::RequestId);
        if let Some(field) = id_field.filter(|_| !id.is_empty()) {
            lines.extend([field, ": ", id, "\r\n"]);
        }
        if let Some(field) = route_field
            && let Some(why) = visit.record().why.word()
        {
            lines.extend([field, ": ", text(Text::Backend), "; why=", why, "\r\n"]);
        }
    }

    /// Starts a visit for an incomplete or invalid head, or for a client that gets a response
    /// without having sent a request.
    pub(crate) fn begin_invalid(
        &mut self,
        now: Instant,
        started: Instant,
        input: &[u8],
    ) -> Box<Visit> {
        let mut visit = self.begin(started);
        visit.take_fragment(now, input, &self.ids.make());
        visit
    }

    /// Ends a visit. If the log is on, its record waits for the driver. The record is lost if
    /// [`WAITING_MAX`] bytes are already waiting.
    #[inline(never)]
    pub(crate) fn end(&mut self, visit: Box<Visit>) {
        self.open -= 1;
        self.lines += u64::from(self.is_logged);
        if !self.is_logged {
            // The visit was only needed for the fields of its response.
        } else if self.records.bytes() < WAITING_MAX {
            self.records.push(visit.record(), visit.texts());
        } else {
            self.lost += 1;
        }
        if self.spares.len() < SPARES_MAX && visit.is_small() {
            self.spares.push(visit);
        }
    }

    /// Returns the bytes of the waiting records.
    pub(crate) const fn waiting(&self) -> usize {
        self.records.bytes()
    }

    /// Takes the waiting records and leaves an empty block in their place.
    pub(crate) fn take(&mut self, empty: Records) -> Records {
        debug_assert!(empty.is_empty(), "records are taken once");
        std::mem::replace(&mut self.records, empty)
    }

    /// Stores the driver's counts.
    pub(crate) const fn handle_counts(&mut self, counts: AccessCounts) {
        self.driver = counts;
    }

    /// Returns the number of exchanges recorded so far, and of records lost.
    pub(crate) const fn counts(&self) -> AccessCounts {
        let AccessCounts { dropped, failed_writes, .. } = self.driver;
        AccessCounts { lines: self.lines, dropped: dropped + self.lost, failed_writes }
    }

    /// Returns the number of visits in progress, for the invariant.
    pub(crate) const fn open(&self) -> u64 {
        self.open
    }
}

/// The maximum size of the records that wait for the driver, bytes. Further records are lost. A
/// turn of 1024 events usually produces less than half of this.
const WAITING_MAX: usize = 1024 * 1024;
/// The maximum number of visits kept for reuse. A turn can end many visits and the next turn start
/// as many; without these, each would be allocated again. A visit takes 0.3 to 1.3 KB.
const SPARES_MAX: usize = 1024;
