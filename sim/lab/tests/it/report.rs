//! `lab --html`: the numbers of the report are those of the text.
use std::path::PathBuf;
use std::process::{Command, Output};
use std::{env, fs};

/// Runs the lab with a report. Returns its output and the report.
fn lab(name: &str, arguments: &[&str]) -> (Output, String) {
    let file = file(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.args(arguments).args(["--html", file.to_str().expect("a path")]);
    let output = command.output().expect("a process");
    let page = fs::read_to_string(&file).unwrap_or_default();
    let _ = fs::remove_file(&file);
    (output, page)
}

fn file(name: &str) -> PathBuf {
    env::temp_dir().join(format!("intelliproxy-{name}-{}", std::process::id()))
}

/// Every row of the text is a row of a table with the same numbers. The curves show the policies,
/// the fault and, at N = 100, the p99 of the table.
#[test]
fn the_report_has_the_numbers_of_the_text() {
    let arguments =
        ["brownout", "--duration-scale", "0.1", "--seeds", "1", "--policies", "score,learned"];
    let (output, page) = lab("report.html", &arguments);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "no progress without a terminal");
    let mut p99 = Vec::new();
    let mut rows = 0;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_row =
            words.first().is_some_and(|word| ["oracle", "score", "learned"].contains(word));
        if !is_row {
            continue;
        }
        rows += 1;
        let cell = |word: &str| match word.parse::<f64>() {
            Ok(_) => format!("<td class=\"number\">{word}</td>"),
            Err(_) if word == "-" => format!("<td class=\"number\">{word}</td>"),
            Err(_) => format!("<td>{word}</td>"),
        };
        let mut row = format!("<tr><th scope=\"row\">{}</th>", words[0]);
        if words.len() > 12 {
            words[1..12].iter().for_each(|word| row.push_str(&cell(word)));
            row.push_str(&format!("<td>{}</td></tr>", words[12..].join(" ")));
            p99.push(words[3].parse::<f64>().expect("a number"));
        } else {
            words[1..].iter().for_each(|word| row.push_str(&cell(word)));
        }
        assert!(page.contains(&row), "{row} is not in the report");
    }
    assert_eq!((rows, p99.len()), (6, 3), "{text}");
    let data = page.split("id=\"report\">").nth(1).and_then(|rest| rest.split("</script>").next());
    let charts: serde_json::Value = serde_json::from_str(data.expect("data")).expect("JSON");
    let (first, second) = (&charts[0], &charts[1]);
    assert_eq!(first["labels"], serde_json::json!(["oracle", "score", "learned"]));
    let at_100 = first["xs"].as_array().expect("a list").iter().position(|n| *n == 100.0);
    for (values, p99) in first["values"].as_array().expect("a list").iter().zip(p99) {
        let shown = values[at_100.expect("p99")].as_f64().expect("a number");
        assert!((shown / p99 - 1.0).abs() < 0.001, "{shown} {p99}");
    }
    assert_eq!(second["marks"][0]["label"], "faulty: speed");
    assert!(page.len() < 400_000, "{} bytes", page.len());
}

/// Any text of a scenario stays text in the report. A report that cannot be written is an error
/// before the runs.
#[test]
fn hostile_scenarios_stay_text() {
    let hostile = "</script><script>alert(1)</script>";
    let scenario = serde_json::json!({
        "name": hostile, "about": format!("<img src=x>{hostile}"), "durationS": 1,
        "backends": [{ "name": hostile, "faults": [{ "fromS": 0.5, "what": "crash" }] }],
    });
    let input = file("hostile.json");
    fs::write(&input, scenario.to_string()).expect("a file");
    let arguments = ["--scenario", input.to_str().expect("a path"), "--policies", "score"];
    let (output, page) = lab("hostile.html", &[&arguments[..], &["--seeds", "1"]].concat());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(page.matches("<script").count(), 4, "the data and three scripts");
    assert!(!page.contains("<img") && page.contains("&lt;img src=x&gt;&lt;/script&gt;"));
    let (output, _) = lab("no-folder/report.html", &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "{output:?}");
    fs::remove_file(input).expect("the file is there");
}
