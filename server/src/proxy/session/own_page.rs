//! The pages under /stats, selected by the target and the fields of a request.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use crate::http::accept::{accepts_gzip, list_of, prefers, weight_named};
use crate::http::head::{RequestHead, Version};

/// A page of the proxy on the traffic port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum OwnPage {
    /// The figures as JSON.
    Figures,
    /// The live page.
    Live {
        /// Whether the client accepts the compressed page, which is the only form.
        takes_gzip: bool,
    },
    /// The events of the live page.
    Events,
    /// The last decisions as JSON.
    Decisions,
    /// One decision as JSON, with the number of its request.
    Decision(u64),
}

impl OwnPage {
    /// Whether a request for this path may be for a page of the proxy.
    #[inline]
    pub(crate) fn may_be(path: &[u8]) -> bool {
        path.starts_with(PATH)
    }

    /// Returns the proxy's own page that a request is for, if any.
    ///
    /// A client gets the live page or its events if it accepts their media types by name and does
    /// not prefer JSON. Otherwise it gets JSON, even if it accepts `*/*`.
    pub(crate) fn of(head: &RequestHead<'_, '_>, path: &[u8]) -> Option<Self> {
        let rest = path.strip_prefix(PATH)?;
        let query = match rest {
            [] => &[],
            [b'?', query @ ..] => query,
            _ => return None,
        };
        if !matches!(head.method, "GET" | "HEAD") {
            return None;
        }
        Some(Self::wanted(head, query))
    }

    #[cold]
    fn wanted(head: &RequestHead<'_, '_>, query: &[u8]) -> Self {
        if let Some(number) = query.strip_prefix(b"explain") {
            match number {
                [] => return Self::Decisions,
                [b'=', number @ ..] => {
                    let number =
                        std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
                    return Self::Decision(number.unwrap_or(u64::MAX));
                }
                _ => {}
            }
        }
        let accepted = list_of(&head.fields, "accept");
        let is_wanted = |wanted| prefers(&accepted, wanted, b"application/json");
        let [events, page] = [EVENTS, HTML]
            .map(|wanted| if is_wanted(wanted) { weight_named(&accepted, wanted) } else { 0 });
        if events > 0 && events >= page && head.version == Version::Http11 {
            return Self::Events;
        }
        if page > 0 {
            return Self::Live {
                takes_gzip: accepts_gzip(&list_of(&head.fields, "accept-encoding")),
            };
        }
        Self::Figures
    }

    /// Returns the Vary line of this page.
    pub(crate) const fn vary(self) -> &'static str {
        match self {
            Self::Figures | Self::Events => "Vary: Accept\r\n",
            Self::Live { .. } => "Vary: Accept, Accept-Encoding\r\n",
            Self::Decisions | Self::Decision(_) => "",
        }
    }
}

/// The path of all pages; a query selects one.
const PATH: &[u8] = b"/stats";
const EVENTS: &[u8] = b"text/event-stream";
const HTML: &[u8] = b"text/html";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::field::Slots;
    use crate::http::head::{HeadLimits, Parsed, parse_request};

    fn page(target: &str, fields: &str) -> Option<OwnPage> {
        let text = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let limits = HeadLimits { head_bytes_max: 8192, target_bytes_max: 8192, fields_max: 64 };
        let mut slots = Slots::new();
        let Ok(Parsed::Complete(head)) = parse_request(text.as_bytes(), &mut slots, &limits) else {
            panic!("{text}");
        };
        OwnPage::of(&head, target.as_bytes())
    }

    /// A browser gets the page, the page's script gets the events, and all other clients get the
    /// figures.
    #[test]
    fn accept_chooses_the_page() {
        const BROWSER: &str =
            "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n";
        let live = |takes_gzip| Some(OwnPage::Live { takes_gzip });
        let rows = [
            ("/stats", "", Some(OwnPage::Figures)),
            ("/stats", "Accept: */*\r\n", Some(OwnPage::Figures)),
            ("/stats?x", "Accept: application/json, text/*\r\n", Some(OwnPage::Figures)),
            ("/stats", BROWSER, live(false)),
            ("/stats", &format!("{BROWSER}Accept-Encoding: gzip, deflate, br\r\n"), live(true)),
            (
                "/stats",
                &format!("{BROWSER}accept-encoding: br\r\nAccept-Encoding: GZIP;q=1\r\n"),
                live(true),
            ),
            ("/stats", &format!("{BROWSER}Accept-Encoding: gzip;q=0.0, br\r\n"), live(false)),
            ("/stats", "Accept: text/html;q=0, */*\r\n", Some(OwnPage::Figures)),
            ("/stats", "Accept: text/html;q=0.5, application/json\r\n", Some(OwnPage::Figures)),
            ("/stats", &format!("{BROWSER}Accept-Encoding: *\r\n"), live(true)),
            ("/stats", "Accept: text/event-stream\r\n", Some(OwnPage::Events)),
            ("/stats", "Accept: text/event-stream;q=0.9, text/html\r\n", live(false)),
            ("/stats", "Accept: text/event-stream;q=0.9, */*\r\n", Some(OwnPage::Figures)),
            ("/stats?explain", BROWSER, Some(OwnPage::Decisions)),
            ("/stats?explain=17", "", Some(OwnPage::Decision(17))),
            ("/stats?explain=-1", "", Some(OwnPage::Decision(u64::MAX))),
            ("/stats?explained", "", Some(OwnPage::Figures)),
            ("/statistics", BROWSER, None),
            ("/stats/", BROWSER, None),
        ];
        for (target, fields, expected) in rows {
            assert_eq!(page(target, fields), expected, "{target} {fields}");
        }
    }
}
