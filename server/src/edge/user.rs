//! `--user`: drops root rights after the listeners are open and before any other work begins. Linux
//! only.
//!
//! The calls change the rights of one thread, so they must be made while the process has no other.
//! Afterwards every thread's rights are read back.
use std::fs;
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::process::{Gid, Uid, getgid, getuid};

use crate::config::Config;
use crate::plain::os_error_text;

/// A user and a group, neither of them root.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// Finds a user by `NAME`, `UID`, `NAME:GROUP` or `UID:GROUP`. The default group is the user's
    /// own.
    ///
    /// # Errors
    /// One line: the user or the group is unknown, or is root.
    pub(crate) fn find(text: &str) -> Result<Self, String> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|error| format!("{path}: {}", os_error_text(&error)))
        };
        Self::find_in(text, &read("/etc/passwd")?, &read("/etc/group")?)
            .map_err(|wrong| format!("--user {text}: {wrong}"))
    }

    fn find_in(text: &str, passwd: &str, groups: &str) -> Result<Self, String> {
        let (name, group) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (text, None),
        };
        let is_id = |row: &Row<'_>| row.id.is_some() && row.id == number(name);
        let row = rows(passwd).find(|row| row.name == name).or_else(|| rows(passwd).find(is_id));
        let uid = row.as_ref().map_or_else(|| number(name), |row| row.id);
        let uid = uid.ok_or("no such user in /etc/passwd")?;
        let gid = match group {
            Some(group) => rows(groups)
                .find(|row| row.name == group)
                .map_or_else(|| number(group), |row| row.id)
                .ok_or_else(|| format!("no group {group} in /etc/group"))?,
            None => row
                .and_then(|row| row.group)
                .ok_or("no such user in /etc/passwd, so a group is needed: UID:GROUP")?,
        };
        if uid == 0 || gid == 0 {
            return Err("must not be root".to_owned());
        }
        Ok(Self { uid, gid })
    }

    /// Becomes this user, without any other group. A process that already has this user keeps its
    /// rights.
    ///
    /// # Errors
    /// One line: the process is not root, a thread kept other rights, or the user cannot write into
    /// the state file's folder.
    pub(crate) fn become_it(self, config: &Config) -> Result<(), String> {
        let Self { uid, gid } = self;
        if getuid().as_raw() != uid || getgid().as_raw() != gid {
            set_rights(self).map_err(|wrong| format!("cannot become user {uid}: {wrong}"))?;
            self.check_threads()?;
        }
        let Some(path) = &config.state_file else { return Ok(()) };
        let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty());
        let rights = Access::WRITE_OK | Access::EXEC_OK;
        access(folder.unwrap_or_else(|| Path::new(".")), rights).map_err(|error| {
            let wrong = os_error_text(&error.into());
            format!("state {path}: user {uid} cannot write into its folder: {wrong}")
        })
    }

    /// Reads back the rights of every thread.
    #[cfg(target_os = "linux")]
    fn check_threads(self) -> Result<(), String> {
        let fail = |error: std::io::Error| format!("/proc/self/task: {}", os_error_text(&error));
        for task in fs::read_dir("/proc/self/task").map_err(fail)? {
            let status = task.map_err(fail)?.path().join("status");
            let text = fs::read_to_string(status).map_err(fail)?;
            if !self.is_of(&text) {
                return Err("a thread kept the rights of root".to_owned());
            }
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn check_threads(self) -> Result<(), String> {
        Ok(())
    }

    /// Whether a status file of /proc shows only this user and this group.
    fn is_of(self, status: &str) -> bool {
        let numbers = |name: &str| -> Vec<Option<u32>> {
            let row = status.lines().find_map(|line| line.strip_prefix(name));
            row.map(|row| row.split_whitespace().map(number).collect()).unwrap_or_default()
        };
        numbers("Uid:") == [Some(self.uid); 4]
            && numbers("Gid:") == [Some(self.gid); 4]
            && numbers("Groups:").is_empty()
    }
}

/// Sets the groups first, because that requires root rights.
#[cfg(target_os = "linux")]
fn set_rights(user: User) -> Result<(), String> {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let set = || {
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)
    };
    set().map_err(|error| os_error_text(&error.into()))
}

#[cfg(not(target_os = "linux"))]
fn set_rights(_: User) -> Result<(), String> {
    Err("--user works on Linux only".to_owned())
}

/// A row of /etc/passwd or /etc/group.
struct Row<'t> {
    name: &'t str,
    id: Option<u32>,
    /// The group of a user.
    group: Option<u32>,
}

fn rows(text: &str) -> impl Iterator<Item = Row<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let id = number(fields.next()?);
        Some(Row { name, id, group: fields.next().and_then(number) })
    })
}

/// Reads an id: a number without a sign. `u32::MAX` is not an id.
fn number(text: &str) -> Option<u32> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_plain && *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nproxy:x:13:14:proxy:/bin:/no\n\
        toor:x:0:0::/:/bin/sh\nstrange:x:15:0::/:/no\nbroken\n";
    const GROUP: &str = "root:x:0:\nproxy:x:14:\nweb:x:33:a,b\n";

    /// Users and groups are found by name and by number. Unknown ones and root are refused.
    #[test]
    fn users_are_found() {
        let unknown = Err("no such user in /etc/passwd");
        let rows = [
            ("proxy", Ok((13, 14))),
            ("13", Ok((13, 14))),
            ("proxy:web", Ok((13, 33))),
            ("13:33", Ok((13, 33))),
            ("proxy:99", Ok((13, 99))),
            ("4711:web", Ok((4711, 33))),
            ("4711", Err("no such user in /etc/passwd, so a group is needed: UID:GROUP")),
            ("nosuch", unknown),
            ("nosuch:web", unknown),
            ("", unknown),
            ("-1:web", unknown),
            ("+13", unknown),
            ("4294967295:web", unknown),
            ("proxy:nosuch", Err("no group nosuch in /etc/group")),
            ("proxy:", Err("no group  in /etc/group")),
            ("root", Err("must not be root")),
            ("0", Err("must not be root")),
            ("toor:web", Err("must not be root")),
            ("strange", Err("must not be root")),
            ("proxy:root", Err("must not be root")),
        ];
        for (text, expected) in rows {
            let found = User::find_in(text, PASSWD, GROUP).map(|user| (user.uid, user.gid));
            assert_eq!(found, expected.map_err(str::to_owned), "{text}");
        }
    }

    /// A thread belongs to the user only if all four user ids and all four group ids match and it
    /// has no other group.
    #[test]
    fn rights_are_read_back() {
        let user = User { uid: 13, gid: 14 };
        let status = |uids: &str, gids: &str, groups: &str| {
            format!("Name:\tx\nUid:\t{uids}\nGid:\t{gids}\nFDSize:\t64\nGroups:\t{groups}\n")
        };
        let (uids, gids) = ("13\t13\t13\t13", "14\t14\t14\t14");
        assert!(user.is_of(&status(uids, gids, " ")));
        for (uids, gids, groups) in [
            ("0\t13\t13\t13", gids, ""),
            ("13\t13\t0\t13", gids, ""),
            (uids, "14\t14\t0\t14", ""),
            (uids, gids, "0 "),
            ("", gids, ""),
        ] {
            assert!(!user.is_of(&status(uids, gids, groups)), "{uids} {gids} {groups}");
        }
    }
}
