//! Files that are gone with the command that writes them, however it ends: a signal runs no destructor.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(vec![]);

/// A file that is written, and has no place yet. Once this is dropped nobody takes it away any more.
pub struct Unfinished(PathBuf);

/// From now on this file goes when the command is broken off.
pub fn unfinished(path: &Path) -> Unfinished {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
    Unfinished(path.to_owned())
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| *path != self.0);
    }
}

/// Before the process is ended from outside. Whoever writes them is ended with it.
pub fn clear() {
    for path in UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_its_place_stays() {
        let folder = tempfile::tempdir().unwrap();
        let [half, whole] = ["half", "whole"].map(|name| folder.path().join(name));
        for path in [&half, &whole] {
            fs::write(path, "x").unwrap();
        }
        let _half = unfinished(&half);
        drop(unfinished(&whole));
        clear();
        assert!(!half.exists() && whole.exists());
    }
}
