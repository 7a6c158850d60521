//! `intelliproxy generate`: runs the texts in the programs that read them.
mod process;

use std::fs;
use std::process::Command;

use process::output;

fn generated(kind: &str) -> String {
    let output = output(&["generate", kind]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// bash proposes commands, words, flags and values where each is allowed. The test completes the
/// last word of each row.
#[test]
fn bash_completes() {
    let name = format!("intelliproxy-completions-{}", std::process::id());
    let file = std::env::temp_dir().join(name);
    let ask = "\nCOMP_WORDS=(intelliproxy \"$@\"); COMP_CWORD=$#; _intelliproxy; \
               printf '%s ' \"${COMPREPLY[@]}\"\n";
    fs::write(&file, generated("bash") + ask).expect("a file");
    for (words, expected) in [
        (&["ct"][..], "ctl"),
        (&["--threshold", ""], ""),
        (&["--cooldown-ms", "5", "--thr"], "--threshold"),
        (&["--policy", "le"], "learned least_request"),
        (&["--policy", "=", "pr"], "prequal"),
        (&["--log-format", "="], "text json"),
        (&["--config", "/etc/passw"], "/etc/passwd"),
        (&["ctl", "d"], "drain"),
        (&["ctl", "ready", ""], ""),
        (&["ctl", "policy", "rou"], "round_robin"),
        (&["stats", "--"], "--socket --help"),
        (&["replay", "--pr"], "--progress"),
        (&["replay", "/etc/passw"], "/etc/passwd"),
        (&["generate", "f"], "fish"),
    ] {
        let mut bash = Command::new("bash");
        bash.args(["--noprofile", "--norc"]).arg(&file).args(words);
        let output = bash.output().expect("bash runs");
        let proposed = String::from_utf8_lossy(&output.stdout);
        let proposed: Vec<&str> =
            proposed.split(' ').filter(|word| !word.starts_with("/etc/passwd-")).collect();
        assert_eq!(proposed.join(" ").trim_end(), expected, "{words:?} {output:?}");
    }
    fs::remove_file(file).expect("it goes");
}

/// The page names the version and depends only on the program.
#[test]
fn the_page_is_the_same_each_time() {
    let page = generated("man");
    let title = format!("\"intelliproxy {}\"", env!("CARGO_PKG_VERSION"));
    assert!(page.lines().next().is_some_and(|line| line.contains(&title)), "{page}");
    assert_eq!(page, generated("man"));
}
