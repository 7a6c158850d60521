//! Joins the files of `page/` and the common look to the live page, and compresses it.
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
