//! Completions for zsh.
use std::fmt::Write;

use super::outline::{Command, Entry, Outline, Values};

/// Returns the script.
pub(super) fn script(outline: &Outline) -> String {
    let mut text = String::from(
        "\
#compdef intelliproxy
# Completions of intelliproxy for zsh, made by `intelliproxy generate zsh`.
_intelliproxy() {
    local curcontext=$curcontext state line
    local -a commands
    commands=(
",
    );
    for command in &outline.commands {
        push_line(&mut text, 8, &described(command.name, command.about()));
    }
    text.push_str("    )\n");
    // The first word selects the command; the rest of the line belongs to it.
    text.push_str("    if (( CURRENT > 2 )); then\n        case $words[2] in\n");
    for command in &outline.commands {
        push_line(&mut text, 12, &format!("{})", command.name));
        text.push_str("                shift words\n                (( CURRENT-- ))\n");
        push_command(&mut text, command);
        text.push_str("                return ;;\n");
    }
    text.push_str("        esac\n    fi\n    _arguments \\\n");
    for flag in outline.flags() {
        push_line(&mut text, 8, &format!("{} \\", argument(flag)));
    }
    text.push_str(
        "        '1: :->command' && return\n    [[ $state == command ]] && _describe command commands\n}\n\
         _intelliproxy \"$@\"\n",
    );
    text
}

/// Adds the flags and words of a command.
fn push_command(text: &mut String, command: &Command) {
    push_line(text, 16, "_arguments \\");
    for flag in command.flags() {
        push_line(text, 20, &format!("{} \\", argument(flag)));
    }
    let mut seen: Vec<&str> = Vec::new();
    let mut words = String::new();
    for word in command.words() {
        for name in &word.names {
            if !seen.contains(&name.as_str()) {
                seen.push(name);
                let _ = write!(words, "{}\\:{} ", name, quoted_in_list(&word.text));
            }
        }
    }
    let rest = if command.takes_files {
        "'*:file:_files'".to_owned()
    } else if words.is_empty() {
        "'*: :'".to_owned()
    } else {
        let follow = command.words().find_map(|word| match &word.values {
            Values::Names(names) => Some(names.join(" ")),
            _ => None,
        });
        let follow = follow.map_or_else(String::new, |names| format!(" '2: :({names})'"));
        format!("'1: :(({}))'{follow}", words.trim_end())
    };
    push_line(text, 20, &rest);
}

/// Returns a flag in the form of `_arguments`.
fn argument(flag: &Entry) -> String {
    let text = quoted(&flag.text);
    let value = flag.value.as_deref().map_or_else(String::new, |value| {
        let action = match &flag.values {
            Values::Any => " ".to_owned(),
            Values::Files => "_files".to_owned(),
            Values::Names(names) => format!("({})", names.join(" ")),
        };
        format!(":{}:{action}", quoted(value))
    });
    match flag.names.as_slice() {
        [name] => {
            let many = if flag.is_repeatable { "*" } else { "" };
            // With `=`, the value may follow the flag directly or as the next word.
            let equals = if flag.value.is_some() { "=" } else { "" };
            format!("'{many}{name}{equals}[{text}]{value}'")
        }
        names => format!("'({})'{{{}}}'[{text}]{value}'", names.join(" "), names.join(",")),
    }
}

/// Returns a word and its explanation in the form of `_describe`.
fn described(name: &str, text: &str) -> String {
    format!("'{name}:{}'", text.replace('\'', "'\\''"))
}

/// Returns the text in single quotes, with `[`, `]` and `:` escaped.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('\'', "'\\''");
    text.replace('[', "\\[").replace(']', "\\]").replace(':', "\\:")
}

/// Returns the explanation of a word in a list of `_arguments`.
fn quoted_in_list(text: &str) -> String {
    format!("\"{}\"", quoted(text).replace('"', "").replace('(', "\\(").replace(')', "\\)"))
}

fn push_line(text: &mut String, indent: usize, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{:indent$}{line}", "");
}
