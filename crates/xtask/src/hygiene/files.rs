//! Owns which files are looked at: all text files of the workspace but what is built or git's own.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Folders whose name begins with a dot and that are ours.
const OUR_DOTTED: &[&str] = &[".cargo", ".ci", ".config", ".github"];

/// A text file.
#[derive(Debug)]
pub struct File {
    /// Its path from the workspace's folder.
    pub path: String,
    /// What it says.
    pub text: String,
}

impl File {
    /// Whether the name ends with this extension.
    pub fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|found| found == extension)
    }
}

/// Every text file below `root`, in order of paths.
pub fn all(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    walk(root, root, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Those with an extension.
pub fn with_extension(root: &Path, extension: &str) -> Result<Vec<File>> {
    let mut files = all(root)?;
    files.retain(|file| file.has_extension(extension));
    Ok(files)
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<File>) -> Result<()> {
    let unreadable = || format!("cannot list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() {
            // A folder with this tag is a cache, as cargo's target folders are, whatever its name.
            let ours = !name.starts_with('.') || OUR_DOTTED.contains(&name.as_str());
            if ours && !path.join("CACHEDIR.TAG").exists() {
                walk(root, &path, files)?;
            }
        } else if kind.is_file() {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            // Pictures and the like are not text.
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let relative = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            files.push(File { path: relative, text });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_git_and_pictures_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, bytes: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        put("src/a.rs", b"fn a() {}");
        put("b.md", b"text");
        put(".ci/run", b"run");
        put(".git/config", b"no");
        put("target/CACHEDIR.TAG", b"no");
        put("target/c.rs", b"no");
        put("picture.png", &[0xff, 0xfe, 0]);
        let paths: Vec<String> = all(root.path()).unwrap().into_iter().map(|file| file.path).collect();
        assert_eq!(paths, [".ci/run", "b.md", "src/a.rs"]);
        assert_eq!(with_extension(root.path(), "rs").unwrap().len(), 1);
    }
}
