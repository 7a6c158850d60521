//! Joins the files of `page/` and the common look to the live page, and compresses it. Sets the
//! linker's script for a release.
use std::io::Write;
use std::path::Path;
use std::{env, fs};

use flate2::Compression;
use flate2::write::GzEncoder;
use intelliproxy_look::{CHARTS, Document, STYLE, UPLOT, UPLOT_STYLE};

/// The scripts in the order in which they run.
const SCRIPTS: [&str; 6] =
    ["state.js", "table.js", "charts.js", "events.js", "explain.js", "main.js"];

fn main() -> std::io::Result<()> {
    set_linker_script();
    println!("cargo::rerun-if-changed=page");
    let read = |name: &str| fs::read_to_string(Path::new("page").join(name));
    let mut page = Document::new("IntelliProxy")
        .connects()
        .style(UPLOT_STYLE)
        .style(STYLE)
        .style(&read("page.css")?)
        .script(UPLOT)
        .script(CHARTS)
        .body(&read("page.html")?);
    for name in SCRIPTS {
        page = page.script(&read(name)?);
    }
    let folder = env::var("OUT_DIR").map_err(std::io::Error::other)?;
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(page.finish().as_bytes())?;
    fs::write(Path::new(&folder).join("page.html.gz"), packed.finish()?)?;
    fs::write(Path::new(&folder).join("page.policy"), page.policy())
}

/// Moves the tables for unwinding out of the loaded part of a release on Linux. rustc has no option
/// for it: the standard library has been compiled with tables, and with debug information the
/// functions of all crates get them then.
fn set_linker_script() {
    println!("cargo::rerun-if-changed=unwind.ld");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    // These linkers have no scripts.
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    let has_scripts = !["mold", "wild"].iter().any(|linker| flags.contains(linker));
    // The profile `release` ends at a panic; the others unwind.
    let is_release = variable("PROFILE") == "release" && variable("CARGO_CFG_TARGET_OS") == "linux";
    if is_release && has_scripts {
        let script = Path::new(&variable("CARGO_MANIFEST_DIR")).join("unwind.ld");
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
}
