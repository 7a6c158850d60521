//! A line of text for a terminal, in parts with a style.
use crate::cli::top::text::{columns, visible};

/// The look of a part.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Style {
    #[default]
    Plain,
    Bold,
    Dim,
    Good,
    Warning,
    Bad,
    Accent,
    /// Exchanged colours.
    Reverse,
}

impl Style {
    /// Returns the parameter of "select graphic rendition".
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "31",
            Self::Accent => "36",
            Self::Reverse => "7",
        }
    }
}

/// A line. Its parts are visible text only.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Line {
    parts: Vec<(Style, String)>,
}

impl Line {
    pub(crate) fn plain(text: &str) -> Self {
        Self::default().and(Style::Plain, text)
    }

    /// Adds a part. Characters that are not visible are escaped.
    #[must_use]
    pub(crate) fn and(mut self, style: Style, text: &str) -> Self {
        self.push(style, text);
        self
    }

    pub(crate) fn push(&mut self, style: Style, text: &str) {
        self.parts.push((style, visible(text, usize::MAX)));
    }

    pub(crate) fn columns(&self) -> usize {
        self.parts.iter().map(|(_, text)| columns(text)).sum()
    }

    /// Returns the line with all parts in one style.
    #[must_use]
    pub(crate) fn all(self, style: Style) -> Self {
        let texts = self.parts.into_iter().map(|(_, text)| text);
        Self { parts: vec![(style, texts.collect())] }
    }

    /// Returns the line cut to `wide` columns.
    #[must_use]
    pub(crate) fn cut(mut self, wide: usize) -> Self {
        if self.columns() <= wide {
            return self;
        }
        let mut room = wide;
        for (_, text) in &mut self.parts {
            let own = columns(text);
            if own > room {
                *text = visible(text, room);
            }
            room = room.saturating_sub(own);
        }
        self
    }

    /// Appends the line to `text`, without spaces at its end.
    pub(crate) fn write(&self, text: &mut String, has_colours: bool) {
        let end = self.parts.iter().rposition(|part| !part.1.trim_end().is_empty());
        for (at, (style, part)) in self.parts.iter().enumerate() {
            let is_behind = end.is_none_or(|end| at > end) && *style != Style::Reverse;
            if is_behind {
                break;
            }
            let is_last = end == Some(at) && *style != Style::Reverse;
            let part = if is_last { part.trim_end() } else { part };
            if has_colours && *style != Style::Plain {
                text.push_str(&format!("\x1b[{}m{part}\x1b[0m", style.code()));
            } else {
                text.push_str(part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Styles appear only with colours, and lines are cut by columns.
    #[test]
    fn lines_are_written() {
        let line = Line::plain("a ").and(Style::Bad, "\x1bb").and(Style::Plain, "  ");
        let mut text = String::new();
        line.write(&mut text, true);
        assert_eq!(text, "a \x1b[31m\\u{1b}b\x1b[0m");
        text.clear();
        line.write(&mut text, false);
        assert_eq!(text, "a \\u{1b}b");
        let mut cut = String::new();
        line.clone().cut(5).write(&mut cut, false);
        assert_eq!(cut, "a \\u…");
        assert_eq!(line.cut(99).columns(), 11);
    }
}
