//! Completions for bash 3.2 and later.
use std::fmt::Write;

use super::outline::{Entry, Outline, Values};

/// Returns the script.
pub(super) fn script(outline: &Outline) -> String {
    let commands: Vec<&str> = outline.commands.iter().map(|command| command.name).collect();
    // Branches of two `case` commands: `values` by the command, `:` and the word before the cursor,
    // and `words` by the command. Each branch has the words that may follow.
    let mut values = String::new();
    let mut words = String::new();
    push_values(&mut values, "", outline.flags());
    let flags = outline.flags().flat_map(|flag| &flag.names);
    push_words(&mut words, "", flags.map(String::as_str).chain(commands.iter().copied()), false);
    for command in &outline.commands {
        push_values(&mut values, command.name, command.entries.iter());
        let names = command.entries.iter().flat_map(|entry| &entry.names).map(String::as_str);
        push_words(&mut words, command.name, names, command.takes_files);
    }
    format!(
        "\
# Completions of intelliproxy for bash, made by `intelliproxy generate bash`.
_intelliproxy() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} command= IFS=$'\\n'
    # Bash splits --flag=value into three words.
    if [[ $cur == '=' ]]; then
        cur=
    elif [[ $prev == '=' && COMP_CWORD -gt 2 ]]; then
        prev=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    if [[ COMP_CWORD -gt 1 ]]; then
        case ${{COMP_WORDS[1]}} in
            {}) command=${{COMP_WORDS[1]}} ;;
        esac
    fi
    COMPREPLY=()
    case $command:$prev in
{values}    esac
    case $command in
{words}    esac
}}
complete -F _intelliproxy intelliproxy
",
        commands.join("|")
    )
}

/// Adds the allowed values of a command's flags and words.
fn push_values<'a>(text: &mut String, command: &str, entries: impl Iterator<Item = &'a Entry>) {
    let (mut files, mut any): (Vec<String>, Vec<String>) = Default::default();
    for entry in entries.filter(|entry| entry.value.is_some()) {
        let patterns = entry.names.iter().map(|name| format!("{command}:{name}"));
        match &entry.values {
            Values::Files => files.extend(patterns),
            Values::Any => any.extend(patterns),
            Values::Names(names) => {
                let pattern = patterns.collect::<Vec<_>>().join("|");
                push_case(text, &pattern, &choose(names.iter().copied()));
            }
        }
    }
    for (patterns, action) in [(files, FILES), (any, "return")] {
        if !patterns.is_empty() {
            push_case(text, &patterns.join("|"), action);
        }
    }
}

/// Adds the words that may directly follow a command.
fn push_words<'a>(
    text: &mut String,
    command: &str,
    words: impl Iterator<Item = &'a str>,
    takes_files: bool,
) {
    let pattern = if command.is_empty() { "''" } else { command };
    let words = choose(words);
    // A word with a dash is a flag; anything else may be a file.
    let action = if takes_files {
        format!("if [[ $cur == -* ]]; then {words}; else {FILES}; fi")
    } else {
        words
    };
    push_case(text, pattern, &action);
}

fn push_case(text: &mut String, pattern: &str, action: &str) {
    let end = if action.ends_with("return") { "" } else { "; return" };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "        {pattern}) {action}{end} ;;");
}

/// Returns the command that proposes the matching words.
fn choose<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut unique: Vec<&str> = Vec::new();
    for word in words {
        if !unique.contains(&word) {
            unique.push(word);
        }
    }
    format!("COMPREPLY=($(compgen -W $'{}' -- \"$cur\"))", unique.join("\\n"))
}

/// Proposes files, including those with spaces in their names.
const FILES: &str = "compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- \"$cur\"))";
