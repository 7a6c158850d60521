//! Folders, ports and backends for tests of the program.
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// A folder that is removed at the end of the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Creates an empty folder. Two tests must not use the same name.
    pub(crate) fn new(name: &str) -> Self {
        let folder = format!("intelliproxy-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    /// Returns the folder's path.
    pub(crate) fn root(&self) -> &Path {
        &self.0
    }

    /// Returns the path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Returns the path of a file in it, as text.
    pub(crate) fn path(&self, name: &str) -> String {
        self.file(name).to_str().expect("a path of UTF-8").to_owned()
    }

    /// Creates a named pipe in the folder. Returns its path.
    pub(crate) fn pipe(&self, name: &str) -> PathBuf {
        let path = self.file(name);
        make_pipe(&path);
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Files left in the system's folder for temporary files do no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Creates a named pipe.
pub(crate) fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

/// Starts a backend that responds to every request with 204. Returns its URL.
pub(crate) fn empty_backend() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
                    if line == "\r\n" {
                        // The proxy has closed the connection if this fails.
                        let _ = (&stream).write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
                    }
                    line.clear();
                }
            });
        }
    });
    format!("http://127.0.0.1:{port}")
}
