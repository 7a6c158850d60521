//! The repository's own rules, checked by reading its files: purity of the inner rings, lengths,
//! reasons for dependencies, and documents that match the program.
mod documents;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use documents::{CONFIGURATION, KeyRow, flatten, key_rows, read, root};
use intelliproxy::config::Config;
use serde_json::Value;

/// Rings 0 and 1 receive facts and the time: they use no clock, thread, socket, file or setting,
/// and iterate over nothing whose order differs from run to run.
#[test]
fn inner_rings_are_pure() {
    let words = [
        "std::thread",
        "thread::spawn",
        "std::env",
        "std::fs",
        "std::process",
        "mio",
        "SystemTime",
        "HashMap",
        "HashSet",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "rustix",
        "println",
        "thread_local",
        "RefCell",
        "Mutex",
        "Atomic",
    ];
    let pure = [
        "core/src",
        "server/replay/src",
        "server/src/http",
        "server/src/access",
        "server/src/proxy",
        "server/src/buffer",
        "server/src/config",
        "server/src/pages",
        "server/src/admin",
        "server/src/control",
        "server/src/tls",
    ];
    let mut seen = 0;
    for file in pure.iter().flat_map(|folder| files(folder, &["rs"])) {
        seen += 1;
        for (number, line) in code_lines(&file) {
            let found = words.iter().find(|word| has_word(&line, word));
            assert_eq!(found, None, "{}:{number}: {line}", file.display());
            let times = line.matches("std::time::").count();
            let spans = line.matches("std::time::Duration").count();
            assert_eq!(
                times,
                spans,
                "{}:{number}: only Duration of std::time is permitted: {line}",
                file.display()
            );
            let is_core = file.starts_with(root().join("core"));
            assert!(!(is_core && line.contains("std::net")), "{}:{number}: {line}", file.display());
        }
    }
    assert!(seen > 40, "{seen} files were found");
}

/// No source file has more than 600 lines, so that each can be read as a whole.
#[test]
fn files_are_short() {
    for file in
        files(".", &["rs", "py", "js", "mjs", "css", "sh"]).into_iter().chain(files(".ci", &[""]))
    {
        let lines = read(&file).lines().count();
        assert!(lines <= 600, "{} has {lines} lines", file.display());
    }
}

/// The README has at most 200 lines. Details are in the documents that it links.
#[test]
fn the_readme_is_short() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= 200, "README.md has {lines} lines");
}

/// No file has a mark of unfinished work.
#[test]
fn nothing_is_left_for_later() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
    ];
    for file in files(".", &["rs", "md", "toml", "py", "js", "mjs", "css", "yml"]) {
        for (number, line) in read(&file).lines().enumerate() {
            let found = marks.iter().find(|mark| has_word(line, mark));
            assert_eq!(found, None, "{}:{}: {line}", file.display(), number + 1);
        }
    }
}

/// Neither the program nor its tests sleep: they wait for a condition.
#[test]
fn nothing_sleeps() {
    let sleep = concat!("sle", "ep(");
    // A test of the ring of files must give the disk time, because the writer does not report when
    // it is done.
    let excepted = root().join("server/src/edge/record/tests.rs");
    let folders = [
        "core",
        "server",
        "tests",
        "sim/tests",
        "sim/all/tests",
        "sim/lab/tests",
        "fuzz/fuzz_targets",
    ];
    let all = folders.iter().flat_map(|folder| files(folder, &["rs"]));
    for file in all.filter(|file| *file != excepted) {
        for (number, line) in read(&file).lines().enumerate() {
            assert!(!line.contains(sleep), "{}:{}: {line}", file.display(), number + 1);
        }
    }
}

/// Readers have stumbled over these words, so texts and comments avoid them
/// (`server/docs/style.md`).
#[test]
fn words_are_plain() {
    let mut seen = 0;
    let mut excused = Vec::new();
    for file in files(".", &["rs", "md", "toml", "py"]) {
        let name = file.strip_prefix(root()).expect("below the root").display().to_string();
        for (number, line) in read(&file).lines().enumerate() {
            let text = if name.ends_with(".md") { line.to_owned() } else { prose(line) };
            seen += usize::from(!text.is_empty());
            let Some(word) = AVOIDED.iter().find(|word| has_word(&text.to_lowercase(), word))
            else {
                continue;
            };
            let excuse = EXCUSED.iter().find(|(file, part)| name == *file && text.contains(part));
            assert!(excuse.is_some(), "{name}:{}: {word}: {}", number + 1, text.trim());
            excused.extend(excuse);
        }
    }
    let idle: Vec<_> = EXCUSED.iter().filter(|excuse| !excused.contains(excuse)).collect();
    assert!(idle.is_empty(), "exceptions without a line: {idle:?}");
    assert!(seen > 3000, "{seen} lines of text were found");
}

/// Words that no text uses.
const AVOIDED: [&str; 13] = [
    "anew",
    concat!("at ", "hand"),
    concat!("in ", "vain"),
    concat!("looked ", "at"),
    "nobody",
    "somebody",
    "everybody",
    "whoever",
    "whom",
    "told",
    "hitherto",
    "henceforth",
    "thereof",
];

/// Lines that have been read and found right, by file and a part of the line.
const EXCUSED: [(&str, &str); 0] = [];

/// Returns the part of a line of code that is meant for readers: its comment and its texts.
fn prose(line: &str) -> String {
    let mut text = String::new();
    for (at, part) in line.split('"').enumerate() {
        let is_text = at % 2 == 1;
        let comment = (!is_text).then(|| part.find("//").or_else(|| part.find("# "))).flatten();
        if let Some(begin) = comment {
            let before: usize = line.split('"').take(at).map(|part| part.len() + 1).sum();
            text.push_str(&line[before + begin..]);
            break;
        }
        if is_text && part.contains(' ') {
            text.push_str(part);
            text.push(' ');
        }
    }
    text
}

/// Every direct external dependency has its reason in a comment above it, or above its group.
#[test]
fn dependencies_have_reasons() {
    let mut seen = 0;
    for file in files(".", &["toml"]).into_iter().filter(|file| file.ends_with("Cargo.toml")) {
        let text = read(&file);
        let lines: Vec<&str> = text.lines().collect();
        let mut is_dependencies = false;
        for (number, line) in lines.iter().enumerate() {
            if line.starts_with('[') {
                is_dependencies = line.ends_with("dependencies]") && !line.contains("workspace");
            } else if is_dependencies && line.contains('=') && !line.starts_with(['#', ' ']) {
                seen += 1;
                let above = lines[..number]
                    .iter()
                    .rev()
                    .find(|line| !line.contains(" = ") && !line.contains("workspace = true"));
                let has_reason = above.is_some_and(|line| line.starts_with('#'));
                assert!(has_reason, "{}:{}: {line}", file.display(), number + 1);
            }
        }
    }
    assert!(seen > 10, "{seen} dependencies were found");
}

/// A package's code uses each of its direct dependencies.
#[test]
fn dependencies_are_used() {
    let manifests: Vec<PathBuf> =
        files(".", &["toml"]).into_iter().filter(|file| file.ends_with("Cargo.toml")).collect();
    let package_of = |file: &Path| {
        let holds = |folder: &&Path| manifests.contains(&folder.join("Cargo.toml"));
        file.ancestors().skip(1).find(holds).map(Path::to_owned)
    };
    let mut seen = 0;
    for manifest in &manifests {
        let package = manifest.parent().expect("a file has a folder");
        let sources = files(".", &["rs"]).into_iter();
        let code: String = sources
            .filter(|file| package_of(file).as_deref() == Some(package))
            .map(|file| read(&file))
            .collect();
        let mut is_dependencies = false;
        for line in read(manifest).lines() {
            if line.starts_with('[') {
                is_dependencies = line.ends_with("dependencies]") && !line.contains("workspace");
            } else if is_dependencies && !line.starts_with('#') && line.contains('=') {
                seen += 1;
                let name = line.split([' ', '.', '=']).next().unwrap_or_default();
                let path = format!("{}::", name.replace('-', "_"));
                assert!(code.contains(&path), "{}: {name} is not used", manifest.display());
            }
        }
    }
    assert!(seen > 20, "{seen} dependencies were found");
}

/// The documents require the Rust version of the manifest.
#[test]
fn documents_name_the_rust_version() {
    let manifest = read(&root().join("Cargo.toml"));
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = \""))
        .expect("a version")
        .trim_end_matches('"');
    for (file, words) in [
        ("README.md", format!("[Rust](https://rustup.rs) {version} or later")),
        (".github/CONTRIBUTING.md", format!("Rust {version} or later")),
    ] {
        assert!(read(&root().join(file)).contains(&words), "{file} does not say: {words}");
    }
}

/// The documents and manifests name the program's version, and the changelog describes it.
#[test]
fn documents_name_the_version() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, words) in [
        ("CHANGELOG.md", format!("## [{version}] - 20")),
        ("README.md", format!("intelliproxy_{version}-1_amd64.deb")),
        ("README.md", format!("intelliproxy-{version}-x86_64-linux.tar.gz")),
        ("README.md", format!("intelliproxy-{version}-image.tar")),
        ("fuzz/Cargo.toml", format!("version = \"{version}\"")),
        ("server/docs/kubernetes/intelliproxy.yaml", format!("/intelliproxy:{version}\n")),
    ] {
        assert!(read(&root().join(file)).contains(&words), "{file} does not have: {words}");
    }
}

/// Every relative link in a document leads to an existing file and heading.
#[test]
fn links_resolve() {
    let mut seen = 0;
    for file in files(".", &["md"]) {
        for link in links(&read(&file)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            seen += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = file.parent().expect("a file has a folder");
            let target = if path.is_empty() { file.clone() } else { folder.join(path) };
            assert!(target.exists(), "{}: {link}", file.display());
            let is_heading = |line: &str| line.starts_with('#') && slug(line) == anchor;
            let is_there = anchor.is_empty() || read(&target).lines().any(is_heading);
            assert!(is_there, "{}: no such heading: {link}", file.display());
        }
    }
    assert!(seen > 5, "{seen} links were found");
}

/// The tables of keys in `configuration.md` list every key and no others, with the default.
#[test]
fn documents_list_every_key() {
    let mut real = BTreeMap::new();
    flatten("", &json_of(&Config::default()), &mut real);
    let mut listed = BTreeMap::new();
    for row in key_rows() {
        let value = real.get(&row.key).unwrap_or_else(|| panic!("there is no key {}", row.key));
        assert!(has_kind(&row, value), "{} is not of type {}: {value}", row.key, row.kind);
        let before = listed.insert(row.key.clone(), row.default.clone());
        assert_eq!(before, None, "{} is listed twice", row.key);
    }
    let missing: Vec<_> = real.iter().filter(|(key, _)| !listed.contains_key(*key)).collect();
    assert!(missing.is_empty(), "{CONFIGURATION} lacks these keys: {missing:#?}");
    for (key, default) in listed {
        let value = &real[&key];
        let listed: Value = serde_json::from_str(&default).unwrap_or(Value::String(default));
        let is_same = listed == *value || (listed.is_number() && listed.as_f64() == value.as_f64());
        assert!(is_same, "the default of {key} is {value}, not {listed}");
    }
}

/// Every range `N to M` in these tables is exact: both ends are accepted, values beyond are
/// refused.
#[test]
fn documents_list_the_real_ranges() {
    let mut seen = 0;
    for row in key_rows() {
        let Some((least, most)) = row.range.split_once(" to ") else { continue };
        let number = |text: &str| text.replace(' ', "").parse::<f64>().ok();
        let (Some(least), Some(most)) = (number(least), number(most)) else { continue };
        seen += 1;
        let outside = if most <= 1.0 { 0.001 } else { 1.0 };
        for (value, is_good) in
            [(least, true), (most, true), (least - outside, false), (most + outside, false)]
        {
            let is_taken = takes(&row.key, value);
            assert_eq!(is_taken, is_good, "{} = {value}", row.key);
        }
    }
    assert!(seen > 30, "{seen} ranges were found");
}

/// The table of flags in `configuration.md` lists every flag of the program and no others.
#[test]
fn documents_list_every_flag() {
    let mut real: Vec<String> = ["flags.rs", "help.rs"]
        .iter()
        .flat_map(|name| quoted_flags(&read(&root().join("server/src/cli").join(name))))
        .collect();
    let document = read(&root().join(CONFIGURATION));
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `-"));
    let mut listed: Vec<String> = rows
        .filter_map(|row| row.split('`').next())
        .flat_map(|cell| flags_in(&format!("-{cell}")))
        .collect();
    real.sort_unstable();
    real.dedup();
    listed.sort_unstable();
    assert_eq!(listed, real, "left: the document's flags; right: the program's");
}

/// Returns whether a default fits the type that its row lists, and the unit fits the key's name.
fn has_kind(row: &KeyRow, default: &Value) -> bool {
    let is_millis = row.key.ends_with("Ms");
    let is_bytes = row.key.contains("Bytes") || row.key.ends_with("bytesMax");
    match row.kind.as_str() {
        "boolean" => default.is_boolean(),
        "list" => default.is_array(),
        "string" => default.is_string() || default.is_null(),
        "object" => default.is_object() || default.is_null(),
        "ms" => is_millis && (default.is_u64() || default.is_null()),
        "count" | "number" if default.is_null() => !is_millis && !is_bytes,
        "bytes" => is_bytes && default.is_u64(),
        "count" | "number" | "pts" => !is_millis && !is_bytes && default.is_number(),
        _ => false,
    }
}

fn json_of(config: &Config) -> Value {
    serde_json::to_value(config).expect("plain data")
}

/// Returns whether a configuration with this number at this key is valid.
fn takes(key: &str, number: f64) -> bool {
    let mut config = json_of(&Config::default());
    // Two keys depend on each other: each is tried with enough room from the other.
    if key == "limits.targetBytesMax" {
        config["limits"]["headBytesMax"] = 60_000.into();
    } else {
        config["limits"]["targetBytesMax"] = 64.into();
    }
    let place = config.pointer_mut(&format!("/{}", key.replace('.', "/"))).expect(key);
    let is_whole = place.is_u64() || place.is_i64() || place.is_null();
    *place = if is_whole { Value::from(number as i64) } else { Value::from(number) };
    Config::from_json(&config.to_string()).is_ok()
}

fn quoted_flags(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let strings = code.lines().flat_map(|line| {
        line.split('"').skip(1).step_by(2).filter(|part| part.starts_with('-')).collect::<Vec<_>>()
    });
    strings.flat_map(flags_in).collect()
}

/// Returns the flags in `-h, --help` or `--listen HOST:PORT`.
fn flags_in(text: &str) -> Vec<String> {
    let is_flag = |word: &&str| word.starts_with('-') && word.len() > 1;
    text.split([' ', ',']).filter(is_flag).map(str::to_owned).collect()
}

/// Returns the targets of Markdown links, outside of code.
fn links(text: &str) -> Vec<String> {
    let prose: Vec<&str> = text.split("```").step_by(2).collect();
    let ends = prose.iter().flat_map(|part| part.split("](").skip(1));
    ends.filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
}

/// Returns the anchor of a heading.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Returns whether `word` is in `line` as a whole word. `Atomic` may be the beginning of a longer
/// one.
fn has_word(line: &str, word: &str) -> bool {
    let is_beside = |c: char| c.is_alphanumeric() || c == '_';
    let starts_open = word.starts_with(|c: char| c.is_alphanumeric());
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(is_beside);
        let after = line[at + word.len()..].chars().next().is_some_and(is_beside);
        let is_prefix = word == "Atomic";
        !(starts_open && before) && (is_prefix || !after)
    })
}

/// Returns the numbered lines of a file up to its tests, without comments.
fn code_lines(file: &Path) -> Vec<(usize, String)> {
    let is_test = file.components().any(|part| {
        let part = part.as_os_str();
        part == "tests" || part == "tests.rs" || part == "testing.rs"
    });
    let text = if is_test { String::new() } else { read(file) };
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = code.lines().enumerate().map(|(at, line)| (at + 1, line.to_owned()));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//")).collect()
}

/// Returns the files below a folder of the repository with one of these endings, without build
/// output.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_built = ["target", ".git", "corpus", "artifacts", "coverage", "node_modules"]
                .contains(&&*name);
            if path.is_dir() && !is_built {
                folders.push(path);
            } else if path.is_file() {
                let ending = path.extension().unwrap_or_default().to_string_lossy().into_owned();
                if endings.contains(&&*ending) {
                    found.push(path);
                }
            }
        }
    }
    found.sort_unstable();
    found
}
