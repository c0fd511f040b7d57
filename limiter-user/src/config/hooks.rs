//! `[[hook]]`: sockets where servers report by their logs.

use std::path::{Path, PathBuf};

use super::file::{Names, choose_group, name, socket};
use super::policies::category;
use super::reader::Table;

/// What is reported unless a frame or the configuration says otherwise.
const CATEGORY: &str = "rate_limit";
/// Hooks that there may be.
const MAX_HOOKS: usize = 64;

/// A Unix datagram socket that takes [frames](crate::hook::parse).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its blocks belong to `app:NAME`.
    pub name: String,
    pub socket: PathBuf,
    /// Group whose members may write to it, beside root.
    pub group: Option<String>,
    /// Of frames that name none.
    pub category: String,
}

impl Hook {
    /// For root alone, with the default category.
    #[must_use]
    pub fn new(name: &str, socket: PathBuf) -> Self {
        Self { name: name.to_owned(), socket, group: None, category: CATEGORY.to_owned() }
    }
}

/// Reads all `[[hook]]`s. `control` is taken already.
pub(super) fn read(root: &mut Table<'_>, control: &Path) -> Vec<Hook> {
    let tables = root.tables("hook");
    if tables.len() > MAX_HOOKS {
        root.problem("hook", format!("{} are too many: at most {MAX_HOOKS}", tables.len()));
    }
    let mut taken = Names::default();
    let mut hooks: Vec<Hook> = Vec::new();
    for mut table in tables {
        let name = name(&mut table, &mut taken, "a name for the hook, like \"nginx\"");
        let what = "a path for its socket, like \"/run/limiter/nginx.sock\"";
        let value = table.required("socket", what);
        let path = value.as_ref().and_then(|value| socket(value, what));
        if let (Some(value), Some(path)) = (&value, &path)
            && (path == control || hooks.iter().any(|other| other.socket == *path))
        {
            value.problem(format!("{} is somebody else's socket; each has one of its own", path.display()));
        }
        let what = "the name of a group whose members may report, like \"www-data\"";
        let group = table.optional("group").and_then(|value| choose_group(&value, what));
        let what = "what is reported, like \"rate_limit\"";
        let category = table.optional("category").and_then(|value| category(&value, what));
        table.finish();
        if let (Some(name), Some(path)) = (name, path) {
            let hook = Hook::new(&name, path);
            let category = category.map_or_else(|| hook.category.clone(), str::to_owned);
            hooks.push(Hook { group, category, ..hook });
        }
    }
    hooks
}
