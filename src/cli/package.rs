//! `package`: the zip that Azure Functions deploys.

use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use memchr::memmem;
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::{CommandError, DONE};

/// The files that the Functions host reads, as they are committed, by their names in the zip.
const HOST_FILES: [(&str, &str); 5] = [
    ("host.json", include_str!("../../host.json")),
    ("CloudIntegrated/function.json", include_str!("../../function.json")),
    ("EntraRisk/function.json", include_str!("../../functions/EntraRisk/function.json")),
    ("Directory/function.json", include_str!("../../functions/Directory/function.json")),
    ("Status/function.json", include_str!("../../status.function.json")),
];

/// The name that host.json starts.
const BINARY: &str = "mimecast-sentinel";

/// The newest glibc that the binary may need, as the minor version of 2.x: older than that of every
/// image that Azure Functions has run on.
const NEWEST_GLIBC: u32 = 17;

/// The first bytes of a little-endian 64-bit ELF file, and its machine: x86-64.
const ELF: &[u8] = b"\x7fELF\x02\x01";
const X86_64: &[u8] = &[0x3e, 0x00];
const MACHINE_AT: std::ops::Range<usize> = 18..20;

/// Write the zip that Azure Functions deploys, and its checksum beside it
#[derive(Args, Debug)]
pub(super) struct Package {
    /// The binary to put in, for x86-64 Linux [default: this program itself]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where to write the zip; `.sha256` is added for the checksum
    #[arg(long, value_name = "FILE", default_value = "mimecast-sentinel.zip")]
    output: PathBuf,
}

impl Package {
    pub(super) fn run(self) -> Result<u8, CommandError> {
        let own = std::env::current_exe();
        let path = self.binary.map_or(own, Ok).map_err(failed("this program's file"))?;
        let binary = std::fs::read(&path).map_err(failed(path.display()))?;
        check(&path, &binary)?;
        let zip = zip(&binary).map_err(failed("the zip"))?;
        let name = self.output.file_name().unwrap_or_default().to_string_lossy();
        let checksum = format!("{}  {name}\n", hex(&Sha256::digest(&zip)));
        let beside = PathBuf::from(format!("{}.sha256", self.output.display()));
        std::fs::write(&self.output, &zip).map_err(failed(self.output.display()))?;
        std::fs::write(&beside, &checksum).map_err(failed(beside.display()))?;
        print!("{checksum}");
        Ok(DONE)
    }
}

/// The same bytes for the same binary: it holds no time and no order of a file system.
fn zip(binary: &[u8]) -> zip::result::ZipResult<Vec<u8>> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default());
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let text = options.unix_permissions(0o644);
    for (name, content) in HOST_FILES {
        zip.start_file(name, text)?;
        zip.write_all(content.as_bytes())?;
    }
    // The package is mounted read-only, so the host cannot make it executable.
    zip.start_file(BINARY, options.unix_permissions(0o755))?;
    zip.write_all(binary)?;
    Ok(zip.finish()?.into_inner())
}

/// Refuses what would not start in Azure.
fn check(path: &Path, binary: &[u8]) -> Result<(), CommandError> {
    let path = path.display();
    if !binary.starts_with(ELF) || binary.get(MACHINE_AT) != Some(X86_64) {
        let what = format!("{path} is not a program for x86-64 Linux; build it with `arm/package`");
        return Err(CommandError::Usage(what));
    }
    match needed_glibc(binary) {
        minor if minor > NEWEST_GLIBC => Err(CommandError::Usage(format!(
            "{path} needs glibc 2.{minor}, which not every image of Azure Functions has; build it \
             with `arm/package`, which asks for 2.{NEWEST_GLIBC}"
        ))),
        _ => Ok(()),
    }
}

/// The minor version of the newest `GLIBC_2.x` that the file names; 0 if it names none.
fn needed_glibc(binary: &[u8]) -> u32 {
    let minor = |at: usize| {
        let digits = binary[at..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.take(4).fold(0, |number, digit| number * 10 + u32::from(digit - b'0'))
    };
    let prefix = b"\0GLIBC_2.";
    memmem::find_iter(binary, prefix).map(|at| minor(at + prefix.len())).max().unwrap_or(0)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn failed<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> CommandError {
    let what = what.to_string();
    move |error| CommandError::Failed(format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_zip_holds_what_the_host_needs_and_is_the_same_each_time() {
        let bytes = zip(b"binary").unwrap();
        assert_eq!(bytes, zip(b"binary").unwrap());
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mut found = Vec::new();
        for index in 0..archive.len() {
            let mut file = archive.by_index(index).unwrap();
            let mut content = Vec::new();
            file.read_to_end(&mut content).unwrap();
            found.push((
                file.name().unwrap().into_owned(),
                file.unix_mode().unwrap() & 0o777,
                content,
            ));
        }
        let mut expected: Vec<_> = HOST_FILES
            .iter()
            .map(|(name, content)| ((*name).to_owned(), 0o644, content.as_bytes().to_vec()))
            .collect();
        expected.push((BINARY.to_owned(), 0o755, b"binary".to_vec()));
        assert_eq!(found, expected);
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "host.json",
                "CloudIntegrated/function.json",
                "EntraRisk/function.json",
                "Directory/function.json",
                "Status/function.json",
                "mimecast-sentinel",
            ]
        );
        let host: serde_json::Value = serde_json::from_str(HOST_FILES[0].1).unwrap();
        assert_eq!(host["customHandler"]["description"]["defaultExecutablePath"], BINARY);
    }

    #[test]
    fn a_program_that_would_not_start_is_refused() {
        let mut elf = ELF.to_vec();
        elf.resize(18, 0);
        elf.extend(X86_64);
        let path = Path::new("p");
        elf.extend(b"\0GLIBC_2.2.5\0GLIBC_2.17\0GLIBC_2.9\0");
        assert!(check(path, &elf).is_ok());
        elf.extend(b"GLIBC_2.34\0");
        let refused = check(path, &elf).unwrap_err().to_string();
        assert!(refused.contains("needs glibc 2.34"), "{refused}");
        elf[18] = 0xb7; // aarch64
        assert!(check(path, &elf).unwrap_err().to_string().contains("x86-64"));
        assert!(check(path, b"MZ").is_err());
    }
}
