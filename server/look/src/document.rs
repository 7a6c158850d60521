//! A self-contained HTML document.
use std::fmt::Write as _;

use crate::hash::hash_base64;

/// The parts of a document. Scripts run in the order in which they were added, after the body and
/// the data.
#[derive(Clone, Debug)]
pub struct Document {
    title: String,
    styles: String,
    scripts: Vec<String>,
    body: String,
    data: String,
    connects: bool,
}

impl Document {
    /// Returns an empty document; `title` is any text.
    pub fn new(title: &str) -> Self {
        Self {
            title: escape(title),
            styles: String::new(),
            scripts: Vec::new(),
            body: String::new(),
            data: String::new(),
            connects: false,
        }
    }

    /// Adds a style sheet of the program itself.
    #[must_use]
    pub fn style(mut self, style: &str) -> Self {
        self.styles.push_str(style);
        self.styles.push('\n');
        self
    }

    /// Adds a script of the program itself.
    #[must_use]
    pub fn script(mut self, script: &str) -> Self {
        self.scripts.push(format!("\n{script}\n"));
        self
    }

    /// Adds HTML of the program itself to the body. Text from outside must pass through [`escape`].
    #[must_use]
    pub fn body(mut self, html: &str) -> Self {
        self.body.push_str(html);
        self
    }

    /// Adds data as JSON, which may contain any text from outside. A script reads it by
    /// `JSON.parse(document.getElementById(id).textContent)`.
    #[must_use]
    pub fn data(mut self, id: &str, json: &str) -> Self {
        // The only character of JSON that can end the element, and it is only in strings.
        let safe = json.replace('<', "\\u003c");
        let id = escape(id);
        let _ =
            writeln!(self.data, "<script type=\"application/json\" id=\"{id}\">{safe}</script>");
        self
    }

    /// Allows the scripts to make requests to the origin of the document.
    #[must_use]
    pub const fn connects(mut self) -> Self {
        self.connects = true;
        self
    }

    /// Returns the Content-Security-Policy: the document's own style sheet and scripts by their
    /// hashes, and nothing else.
    pub fn policy(&self) -> String {
        let hashes = self.scripts.iter().map(|script| format!(" 'sha256-{}'", hash_base64(script)));
        let scripts: String = hashes.collect();
        let style = hash_base64(&self.styles);
        let connects = if self.connects { "; connect-src 'self'" } else { "" };
        format!(
            "default-src 'none'; script-src{}; style-src 'sha256-{style}'{connects}; \
             img-src data:; base-uri 'none'; form-action 'none'",
            if scripts.is_empty() { " 'none'" } else { &scripts }
        )
    }

    /// Returns the text of the document.
    pub fn finish(&self) -> String {
        let scripts = self.scripts.iter().map(|script| format!("<script>{script}</script>\n"));
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n\
             <style>{styles}</style>\n</head>\n<body>\n{body}\n{data}{scripts}</body>\n</html>\n",
            policy = self.policy(),
            title = self.title,
            styles = self.styles,
            body = self.body,
            data = self.data,
            scripts = scripts.collect::<String>(),
        )
    }
}

/// Returns a text for HTML: in an element or in a quoted attribute.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CHARTS, STYLE, UPLOT, UPLOT_STYLE};

    /// Hostile text as a title and as data ends no element and begins none.
    #[test]
    fn texts_from_outside_stay_texts() {
        let hostile = "</script><script>alert(1)</script><!--<title>\"'&";
        let json = format!("{{\"name\": \"{}\"}}", hostile.replace('"', "\\\""));
        let page = Document::new(hostile).data("x", &json).script("let a;").finish();
        assert_eq!(page.matches("<script").count(), 2, "{page}");
        assert_eq!(page.matches("</script>").count(), 2, "{page}");
        assert!(!page.contains("<!--"), "{page}");
        assert!(page.contains("<title>&lt;/script&gt;&lt;script&gt;alert(1)"), "{page}");
        assert!(page.contains("\\u003c/script>\\u003cscript>alert(1)"), "{page}");
    }

    /// The policy of a document has the hash of each script and of the style sheet, and allows
    /// nothing inline by itself.
    #[test]
    fn the_policy_has_every_part() {
        let page = Document::new("t").style("b{}").script("let a;").script("let b;");
        let policy = page.policy();
        for part in ["\nlet a;\n", "\nlet b;\n", "b{}\n"] {
            let hash = format!("'sha256-{}'", hash_base64(part));
            assert!(policy.contains(&hash), "{part:?}: {policy}");
            assert!(page.finish().contains(&format!(">{part}</")), "{part:?}");
        }
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(!policy.contains("connect-src"), "{policy}");
        assert!(page.connects().policy().contains("; connect-src 'self';"));
        assert!(Document::new("t").policy().contains("script-src 'none'; "));
    }

    /// No part of the look ends its element early or names an outside address to load from.
    #[test]
    fn the_parts_can_be_embedded() {
        for part in [CHARTS, UPLOT, STYLE, UPLOT_STYLE] {
            for bad in ["</script", "</style", "<!--", "@import", "url("] {
                assert!(!part.contains(bad), "{bad}");
            }
        }
    }
}
