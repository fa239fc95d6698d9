//! Programs that Debian packages: as installed, or unpacked and kept beside the build.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tokio::sync::Mutex;

/// Programs and the packages that have them.
const PACKAGES: [(&str, &str); 4] = [
    ("promtool", "prometheus"),
    ("prometheus", "prometheus"),
    ("prometheus-alertmanager", "prometheus-alertmanager"),
    ("amtool", "prometheus-alertmanager"),
];

static TURN: Mutex<()> = Mutex::const_new(());

fn works(program: &Path) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|said| said.status.success())
}

/// One of the programs above; the error says why there is none.
pub async fn program(name: &str) -> Result<PathBuf, String> {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _turn = TURN.lock().await;
    for program in [Path::new(name), &kept] {
        if works(program) {
            return Ok(program.to_owned());
        }
    }
    let (_, package) = PACKAGES.iter().find(|(program, _)| *program == name).ok_or("it is in no package of ours")?;
    let unpacked = unpack(package).await?;
    for (program, _) in PACKAGES.iter().filter(|(_, of)| of == package) {
        keep(unpacked.path(), program).map_err(|error| format!("{program}: {error}"))?;
    }
    if works(&kept) { Ok(kept) } else { Err(format!("{} does not run", kept.display())) }
}

/// Alertmanager reads its templates at this place, whatever it is told. The copy that we keep reads them where it is started.
const TEMPLATES: &[u8] = b"/usr/share/prometheus/alertmanager";

fn keep(unpacked: &Path, program: &str) -> std::io::Result<()> {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut text = std::fs::read(unpacked.join("usr/bin").join(program))?;
    let here = "./".repeat(TEMPLATES.len() / 2).into_bytes();
    for at in places(&text, TEMPLATES) {
        text[at..at + here.len()].copy_from_slice(&here);
    }
    for template in
        std::fs::read_dir(unpacked.join("usr/share/prometheus/alertmanager")).into_iter().flatten().flatten()
    {
        if template.file_type()?.is_file() {
            std::fs::copy(template.path(), kept.join(template.file_name()))?;
        }
    }
    std::fs::write(kept.join(program), text)?;
    std::fs::set_permissions(kept.join(program), Permissions::from_mode(0o755))
}

fn places(text: &[u8], part: &[u8]) -> Vec<usize> {
    let parts =
        regex::bytes::Regex::new(&regex::escape(std::str::from_utf8(part).expect("a path"))).expect("an expression");
    parts.find_iter(text).map(|found| found.start()).collect()
}

/// The files of a package, which is not installed.
pub async fn unpack(package: &str) -> Result<tempfile::TempDir, String> {
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().expect("a folder");
    let mut unpack = tokio::process::Command::new("sh");
    let unpack = unpack.args(["-c", "apt-get -q download \"$0\" && dpkg-deb -x \"$0\"_*.deb ."]).arg(package);
    let said = unpack.current_dir(&folder).kill_on_drop(true).output();
    match tokio::time::timeout(Duration::from_secs(60), said).await {
        Err(_) => Err(format!("Debian's package {package} was not fetched within 60 s")),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(said)) if !said.status.success() => Err(String::from_utf8_lossy(&said.stderr).into_owned()),
        Ok(Ok(_)) => Ok(folder),
    }
}
