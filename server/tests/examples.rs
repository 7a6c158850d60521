//! The configurations in `examples/` are valid.
use std::path::Path;
use std::process::Command;

/// `--check` accepts each of them.
#[test]
fn examples_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut seen = 0;
    for entry in folder.read_dir().expect("the folder of examples") {
        let file = entry.expect("a listing").path();
        if file.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        seen += 1;
        let mut program = Command::new(env!("CARGO_BIN_EXE_intelliproxy"));
        let output = program.arg("--check").arg("--config").arg(&file).output().expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", file.display());
    }
    assert!(seen >= 3, "{seen} examples were found");
}
