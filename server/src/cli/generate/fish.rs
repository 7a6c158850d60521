//! Completions for fish 3 and later.
use std::fmt::Write;

use super::outline::{Entry, Outline, Values};

/// Returns the script.
pub(super) fn script(outline: &Outline) -> String {
    let names: Vec<&str> = outline.commands.iter().map(|command| command.name).collect();
    let mut text = format!(
        "\
# Completions of intelliproxy for fish, made by `intelliproxy generate fish`.
function __intelliproxy_in
    # Whether the first word is this command; for an empty name, whether it is not a command.
    set -l words (commandline -opc)
    if test -z $argv[1]
        not contains -- \"$words[2]\" {}
    else
        test \"$words[2]\" = $argv[1]
    end
end
complete -c intelliproxy -f
",
        names.join(" ")
    );
    let is_none = "__intelliproxy_in \"\"";
    for command in &outline.commands {
        push(&mut text, is_none, &format!("-a {}", command.name), command.about());
    }
    for flag in outline.flags() {
        push(&mut text, is_none, &options(flag), &flag.text);
    }
    for command in &outline.commands {
        let is_it = format!("__intelliproxy_in {}", command.name);
        for flag in command.flags() {
            push(&mut text, &is_it, &options(flag), &flag.text);
        }
        let words: Vec<&str> =
            command.words().flat_map(|word| &word.names).map(String::as_str).collect();
        let is_first = format!("{is_it}; and not __fish_seen_subcommand_from {}", words.join(" "));
        let mut seen: Vec<&str> = Vec::new();
        for word in command.words() {
            for name in word.names.iter().map(String::as_str).filter(|name| !seen.contains(name)) {
                push(&mut text, &is_first, &format!("-a {name}"), &word.text);
            }
            seen.extend(word.names.iter().map(String::as_str));
            if let Values::Names(values) = &word.values {
                let is_after = format!(
                    "{is_it}; and __fish_seen_subcommand_from {}",
                    seen.last().copied().unwrap_or_default()
                );
                push(&mut text, &is_after, &format!("-a '{}'", values.join(" ")), "");
            }
        }
        if command.takes_files {
            push(&mut text, &is_it, "-F", "");
        }
    }
    text
}

/// Returns a flag as options of `complete`.
fn options(flag: &Entry) -> String {
    let mut text = String::new();
    for name in &flag.names {
        // Writing to a String cannot fail.
        let _ = match name.strip_prefix("--") {
            Some(long) => write!(text, "-l {long} "),
            None => write!(text, "-s {} ", name.trim_start_matches('-')),
        };
    }
    text.push_str(match (&flag.value, &flag.values) {
        (None, _) => "",
        (Some(_), Values::Files) => "-r -F",
        (Some(_), Values::Any) => "-x",
        (Some(_), Values::Names(_)) => "-x -a ",
    });
    if let Values::Names(names) = &flag.values {
        let _ = write!(text, "'{}'", names.join(" "));
    }
    text
}

fn push(text: &mut String, condition: &str, options: &str, about: &str) {
    let about = if about.is_empty() { String::new() } else { format!(" -d {}", quoted(about)) };
    let _ =
        writeln!(text, "complete -c intelliproxy -n '{condition}' {}{about}", options.trim_end());
}

/// Returns text as one word of fish.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
