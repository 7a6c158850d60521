//! Properties of request methods.
//!
//! The layout hints are explained in `http/mod.rs`.

/// The methods that are registered as idempotent (<https://www.iana.org/assignments/http-methods>,
/// read in 2025), besides GET and PRI, which is reserved for HTTP/2. LOCK, POST, PATCH and CONNECT
/// are registered as not idempotent. Unregistered methods are treated as not idempotent.
const IDEMPOTENT: [&str; 34] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "DELETE",
    "HEAD",
    "LABEL",
    "LINK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "OPTIONS",
    "ORDERPATCH",
    "PROPFIND",
    "PROPPATCH",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

/// Whether sending a request twice has the same effect as once (RFC 9110 section 9.2.2).
pub(crate) fn is_idempotent(method: &str) -> bool {
    method == "GET" || (method != "POST" && is_idempotent_besides_get(method))
}

#[inline(never)]
fn is_idempotent_besides_get(method: &str) -> bool {
    IDEMPOTENT.binary_search(&method).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The search finds every member of the table and no other name.
    #[test]
    fn registered_methods_are_known() {
        assert!(IDEMPOTENT.is_sorted());
        for method in IDEMPOTENT.into_iter().chain(["GET"]) {
            assert!(is_idempotent(method), "{method}");
        }
        for method in ["POST", "PATCH", "LOCK", "CONNECT", "PRI", "get", "Put", "X", "", "*"] {
            assert!(!is_idempotent(method), "{method}");
        }
    }
}
