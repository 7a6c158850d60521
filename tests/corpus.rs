//! Runs the fuzz targets' bodies on the inputs in `fuzz/corpus/`, so that every build repeats the
//! checks of what fuzzing has found.
use std::path::Path;

use intelliproxy_fuzzing::TARGETS;

/// Every input of every corpus runs through its target, in the order of names. The last name
/// printed is the one that panicked.
#[test]
fn the_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, target) in TARGETS {
        let entries = std::fs::read_dir(corpus.join(name)).expect("a corpus for each target");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("a listing").path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "a corpus without inputs shows nothing");
        for path in paths {
            println!("{}", path.display());
            target(&std::fs::read(&path).expect("an input"));
        }
    }
}

/// Each target has a shim with its name, so that it is also fuzzed.
#[test]
fn every_target_is_fuzzed() {
    let shims = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
    let mut found: Vec<String> = std::fs::read_dir(shims)
        .expect("a folder of shims")
        .map(|entry| entry.expect("a listing").path())
        .map(|path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut expected: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
}
