//! Finds the configuration's layers, joins them, and writes what the page changes.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::appliance::card::SOURCE;
use super::appliance::places::read_plain;
use super::config_file;
use crate::model::config::keys::{KEYS, Kind};
use crate::model::config::{self, Given, Place, Problem, Raw, Resolved};
use crate::model::limits;
use crate::web::password;

/// Where the layers lie.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The data directory; its `slskdn.yml` is the lowest layer.
    pub data: PathBuf,
    /// A second file above it: `--config`, or the card's file on the appliance.
    pub config: Option<PathBuf>,
    /// `--music`: folders to share.
    pub music: Vec<PathBuf>,
    /// `--set key=value`.
    pub flags: Vec<String>,
    /// Environment variables, those that begin with `SLSKDN_`.
    pub environment: Vec<(String, String)>,
    /// On the appliance: where the card's files lie as they were read at the start (`$SLSKDN_CARD`).
    pub card: Option<PathBuf>,
    /// A test's folder in place of `/`, for what lies outside the data directory.
    pub root: Option<PathBuf>,
}

/// Which of the appliance's layers holds what was taken from the card.
const SECRETS: usize = 1;

/// Its name.
const SECRETS_FILE: &str = "secrets.yml";

/// What a change came to.
#[derive(Debug)]
pub struct Changed {
    /// The new whole.
    pub resolved: Resolved,
    /// The data file as it was.
    before: String,
}

impl Sources {
    /// The file the page writes.
    pub fn data_file(&self) -> PathBuf {
        self.data.join("slskdn.yml")
    }

    /// Reads and joins every layer.
    ///
    /// # Errors
    /// Every mistake of every layer at once.
    pub fn load(&self) -> Result<Resolved, Vec<Problem>> {
        self.load_with(read_file(&self.data_file(), false))
    }

    /// As [`Sources::load`], with this as the lowest layer.
    fn load_with(&self, lowest: Result<Vec<Given>, Vec<Problem>>) -> Result<Resolved, Vec<Problem>> {
        let mut layers = Vec::new();
        let mut problems = Vec::new();
        let mut take = |layer: Result<Vec<Given>, Vec<Problem>>| match layer {
            Ok(given) => layers.push(given),
            Err(found) => problems.extend(found),
        };
        if self.card.is_some() {
            take(Ok(vec![open_to_the_network()]));
            take(read_file(&self.secrets_file(), false));
        }
        take(lowest);
        let card = layers.len();
        let mut told = Vec::new();
        if let Some(folder) = &self.card {
            layers.push(read_card(folder, &mut told));
        }
        let mut take = |layer: Result<Vec<Given>, Vec<Problem>>| match layer {
            Ok(given) => layers.push(given),
            Err(found) => problems.extend(found),
        };
        if let Some(path) = &self.config
            && *path != self.data_file()
        {
            take(read_file(path, true));
        }
        layers.push(config_file::environment(self.environment.iter().cloned(), &mut problems));
        layers.push(self.flags(&mut problems));
        loop {
            let outcome = config::resolve(&layers).and_then(|resolved| self.fits(resolved, layers.get(card)));
            match outcome {
                Ok(mut resolved) if problems.is_empty() => {
                    resolved.warnings.extend(told);
                    resolved.warnings.extend(weak_password(&resolved));
                    return Ok(resolved);
                }
                Ok(_) => return Err(problems),
                // On the appliance a mistake on the card is told, and the box comes up without that line. What was taken
                // from it long ago may fit to nothing that is there now.
                Err(found)
                    if self.card.is_some()
                        && (leave_out(layers.get_mut(card), SOURCE, &found)
                            || leave_out(layers.get_mut(SECRETS), "", &found)) =>
                {
                    let ours = |problem: &Problem| matches!(problem.place.source.as_str(), "" | SOURCE);
                    told.extend(found.into_iter().filter(ours));
                }
                Err(more) => {
                    problems.extend(more);
                    return Err(problems);
                }
            }
        }
    }

    /// A budget that is too small is the card's mistake where the card names it.
    fn fits(&self, resolved: Resolved, card: Option<&Vec<Given>>) -> Result<Resolved, Vec<Problem>> {
        let named = card.filter(|_| self.card.is_some());
        let named = named.and_then(|layer| layer.iter().find(|given| given.key == "memory.budget"));
        match (named, limits::fits(&resolved.config)) {
            (Some(given), Err(message)) => {
                Err(vec![Problem { place: given.place.clone(), key: given.key.clone(), message }])
            }
            _ => Ok(resolved),
        }
    }

    /// What was taken from the card and is for nobody else to read.
    pub fn secrets_file(&self) -> PathBuf {
        self.data.join("identity").join(SECRETS_FILE)
    }

    /// The layer of the flags; what is wrong with some does not hide what is wrong with others.
    fn flags(&self, problems: &mut Vec<Problem>) -> Vec<Given> {
        let place = |source: &str| Place { source: format!("flag {source}"), ..Place::default() };
        let mut given = Vec::new();
        if !self.music.is_empty() {
            let folders = self.music.iter().map(|path| path.to_string_lossy().into_owned()).collect();
            given.push(Given {
                key: "shares.directories".to_owned(),
                value: Raw::Many(folders),
                place: place("--music"),
            });
        }
        for flag in &self.flags {
            match flag.split_once('=') {
                Some((key, value)) => {
                    given.push(Given { key: key.to_owned(), value: Raw::One(value.to_owned()), place: place("--set") });
                }
                None => problems.push(Problem {
                    place: place("--set"),
                    key: String::new(),
                    message: format!("key=value is wanted, not `{flag}`"),
                }),
            }
        }
        given
    }

    /// Sets keys in the data file (list values one a line) after checking that the new whole makes sense and that the
    /// program would start with it: what lies there is always something to start with.
    ///
    /// # Errors
    /// What is wrong with the new whole; the file is untouched then.
    pub fn change(&self, changes: &[(String, Option<String>)]) -> Result<Changed, Vec<Problem>> {
        let path = self.data_file();
        let whole = |message: String| {
            let place = Place { source: path.display().to_string(), ..Place::default() };
            vec![Problem { place, key: String::new(), message }]
        };
        let before = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(whole(format!("cannot be read: {error}"))),
        };
        let mut text = before.clone();
        for (key, value) in changes {
            let value = value.as_ref().map(|value| match config::keys::find(key).map(|key| key.kind) {
                Some(Kind::List) => {
                    Raw::Many(value.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
                }
                _ => Raw::One(value.clone()),
            });
            text = config_file::edit(&text, key, value.as_ref())?;
        }
        let resolved = self.load_with(config_file::read(&text, &path.display().to_string()))?;
        limits::fits(&resolved.config).map_err(&whole)?;
        write_private(&path, &text).map_err(|error| whole(format!("cannot be written: {error}")))?;
        Ok(Changed { resolved, before })
    }

    /// Puts the data file back as it was before a change that did not work out.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn undo(&self, changed: &Changed) -> std::io::Result<()> {
        write_private(&self.data_file(), &changed.before)
    }

    /// Makes a data directory with a first configuration file in it.
    ///
    /// # Errors
    /// The folder or the file cannot be made.
    pub fn prepare(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.data)?;
        let file = self.data_file();
        if !file.exists() {
            write_private(&file, sample())?;
        }
        Ok(())
    }
}

/// Replaces a file as a whole, readable by its owner only: it may hold a password.
///
/// # Errors
/// What the file system refuses.
pub fn write_private(path: &Path, text: impl AsRef<[u8]>) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("yml.new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(text.as_ref()).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| std::fs::rename(&temporary, path)) {
        // The error that counts is the first one.
        drop(std::fs::remove_file(&temporary));
        return Err(error);
    }
    std::fs::File::open(folder)?.sync_all()
}

/// A box without a screen is reached from another machine.
fn open_to_the_network() -> Given {
    let place = Place { source: "the appliance".to_owned(), ..Place::default() };
    Given { key: "web.address".to_owned(), value: Raw::One("0.0.0.0".to_owned()), place }
}

/// What the page would not take as its password, and what somebody's editor made of straight quotes.
fn weak_password(resolved: &Resolved) -> Option<Problem> {
    let given = &resolved.config.web.password;
    let message = if given.starts_with(['“', '”', '„', '‘', '’', '«']) {
        "it begins with a typographic quote, which is a part of the password: straight quotes are wanted".to_owned()
    } else if !given.is_empty() && given.chars().count() < password::SHORTEST {
        format!("it is shorter than {} characters, and soon guessed", password::SHORTEST)
    } else {
        return None;
    };
    let key = "web.authentication.password";
    let mut place = resolved.effective.iter().find(|row| row.key == key)?.place.clone();
    if place.source.ends_with(SECRETS_FILE) {
        place = Place { source: SOURCE.to_owned(), ..Place::default() };
    }
    Some(Problem { place, key: key.to_owned(), message })
}

/// The card's `slskdn.yml`, and what is wrong with any of its files.
fn read_card(folder: &Path, told: &mut Vec<Problem>) -> Vec<Given> {
    let problems = read_plain(&folder.join("problems"), 64 * 1024).unwrap_or_default();
    let whole = |message: &str| {
        let place = Place { source: "the boot partition".to_owned(), ..Place::default() };
        Problem { place, key: String::new(), message: message.to_owned() }
    };
    // What is wrong in slskdn.yml is found here again.
    let of_others = String::from_utf8_lossy(&problems).into_owned();
    told.extend(of_others.lines().filter(|line| !line.starts_with(SOURCE)).take(64).map(whole));
    let text = match read_plain(&folder.join("slskdn.yml"), 1024 * 1024) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => return Vec::new(),
    };
    config_file::read(&text, SOURCE).unwrap_or_else(|found| {
        told.extend(found);
        Vec::new()
    })
}

/// Takes the lines with these mistakes out of the layer, or all of it when they are not found. A mistake without a place
/// is one of several keys together: those of its section go. False: nothing of it is in the layer.
fn leave_out(layer: Option<&mut Vec<Given>>, source: &str, found: &[Problem]) -> bool {
    let Some(layer) = layer else { return false };
    let section = |key: &str| key.split('.').next().unwrap_or_default().to_owned();
    let before = layer.len();
    layer.retain(|given| {
        !found.iter().any(|problem| match problem.place.source.as_str() {
            "" => section(&problem.key) == section(&given.key),
            from => from == source && problem.place == given.place,
        })
    });
    if layer.len() == before && found.iter().any(|problem| !source.is_empty() && problem.place.source == source) {
        layer.clear();
    }
    layer.len() < before
}

fn read_file(path: &Path, must_exist: bool) -> Result<Vec<Given>, Vec<Problem>> {
    let source = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => config_file::read(&text, &source),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => Ok(Vec::new()),
        Err(error) => {
            let place = Place { source, ..Place::default() };
            Err(vec![Problem { place, key: String::new(), message: format!("cannot be read: {error}") }])
        }
    }
}

/// The first configuration file: every key with its default and meaning, commented out.
pub fn sample() -> String {
    let mut out = String::from(
        "# slskdn: what the box should do. Every line below is a default; take the # away to change it.\n\
         # The page's settings write into this file. `slskdn config check` finds mistakes.\n",
    );
    let mut open: Vec<&str> = Vec::new();
    for key in KEYS {
        let parts: Vec<&str> = key.name.split('.').collect();
        let shared = open.iter().zip(&parts[..parts.len() - 1]).take_while(|(a, b)| a == b).count();
        open.truncate(shared);
        for (depth, part) in parts.iter().enumerate().take(parts.len() - 1).skip(shared) {
            if depth == 0 {
                out.push('\n');
            }
            out.push_str(&format!("# {}{}:\n", "  ".repeat(depth), if *part == "*" { "my-tool" } else { part }));
            open.push(part);
        }
        let pad = "  ".repeat(parts.len() - 1);
        let value = match (key.kind, key.default) {
            (Kind::List, _) => "[]",
            (_, "") => "\"\"",
            (_, text) if text.contains([':', ',', '/']) => &format!("\"{text}\""),
            (_, text) => text,
        };
        out.push_str(&format!("# {pad}{}: {value}  # {}\n", parts[parts.len() - 1], key.about));
    }
    out
}

/// The effective configuration as YAML with the source of each value; secrets are not shown.
pub fn print(resolved: &Resolved) -> String {
    let mut out = String::new();
    let mut open: Vec<String> = Vec::new();
    for row in &resolved.effective {
        let parts: Vec<String> = row.key.split('.').map(str::to_owned).collect();
        let shared = open.iter().zip(&parts[..parts.len() - 1]).take_while(|(a, b)| a == b).count();
        open.truncate(shared);
        for (depth, part) in parts.iter().enumerate().take(parts.len() - 1).skip(shared) {
            out.push_str(&format!("{}{part}:\n", "  ".repeat(depth)));
            open.push(part.clone());
        }
        let pad = "  ".repeat(parts.len() - 1);
        out.push_str(&format!("{pad}{}: {}  # {}\n", parts[parts.len() - 1], shown_yaml(row), row.place));
    }
    out
}

/// A value as text for a person; secrets as `(set)`.
pub fn shown(row: &config::Effective) -> String {
    match &row.value {
        Raw::One(text) if row.secret => if text.is_empty() { "" } else { "(set)" }.to_owned(),
        Raw::One(text) => text.clone(),
        Raw::Many(items) => items.join("\n"),
    }
}

fn shown_yaml(row: &config::Effective) -> String {
    let quoted = |text: &str| serde_json::Value::String(text.to_owned()).to_string();
    match &row.value {
        Raw::Many(items) => format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ")),
        Raw::One(_) if row.secret => quoted(&shown(row)),
        Raw::One(text) if text.parse::<u64>().is_ok() || text == "true" || text == "false" => text.clone(),
        Raw::One(text) => quoted(text),
    }
}

/// JSON schema (draft 2020-12) of the file.
pub fn schema() -> serde_json::Value {
    use serde_json::{Map, Value, json};
    fn object(of: &mut Map<String, Value>) -> &mut Map<String, Value> {
        of.entry("type").or_insert_with(|| json!("object"));
        of.entry("additionalProperties").or_insert_with(|| json!(false));
        let Value::Object(properties) = of.entry("properties").or_insert_with(|| json!({})) else {
            unreachable!("just made an object")
        };
        properties
    }
    let mut root = Map::new();
    root.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    root.insert("title".to_owned(), json!("slskdn.yml"));
    for key in KEYS {
        let parts: Vec<&str> = key.name.split('.').collect();
        let mut at = &mut root;
        for part in &parts[..parts.len() - 1] {
            let (name, holder) = if *part == "*" { ("additionalProperties", at) } else { (*part, object(at)) };
            let slot = holder.entry(name).or_insert_with(|| json!({}));
            if !slot.is_object() {
                *slot = json!({});
            }
            let Value::Object(next) = slot else { unreachable!("just made an object") };
            at = next;
        }
        let mut leaf = match key.kind {
            Kind::Text | Kind::Secret => json!({"type": ["string", "number", "null"]}),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Number(low, high) => json!({"type": "integer", "minimum": low, "maximum": high}),
            Kind::Word(words) => json!({"enum": words}),
            Kind::List => json!({"type": "array", "items": {"type": "string"}}),
        };
        leaf["description"] = json!(key.about);
        match key.kind {
            Kind::Number(..) => leaf["default"] = json!(key.default.parse::<u64>().unwrap_or(0)),
            Kind::Bool => leaf["default"] = json!(key.default == "true"),
            Kind::List => leaf["default"] = json!([]),
            Kind::Text | Kind::Word(_) => leaf["default"] = json!(key.default),
            Kind::Secret => leaf["writeOnly"] = json!(true),
        }
        object(at).insert(parts[parts.len() - 1].to_owned(), leaf);
    }
    Value::Object(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_every_default() {
        let sample = sample();
        assert_eq!(config_file::read(&sample, "t").unwrap(), []);
        // The tool's key is an example, not a default.
        let (before, rest) = sample.split_once("#     api_keys:").unwrap();
        let after = &rest[rest.find("\n\n").unwrap()..];
        let live = format!("{before}{after}").replace("\n# ", "\n").replace("\nThe page", "\n# The page");
        let resolved = config::resolve(&[config_file::read(&live, "t").unwrap()]).unwrap();
        assert_eq!(resolved.config, config::resolve(&[]).unwrap().config);
        assert_eq!(resolved.warnings, []);
    }

    #[test]
    fn the_documented_sample_is_this_one() {
        let documented = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/slskdn.yml")).unwrap();
        assert_eq!(documented, sample(), "write it anew: cargo run -- config sample > docs/slskdn.yml");
    }

    #[test]
    fn a_change_is_kept_and_a_wrong_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources { data: folder.path().to_owned(), ..Sources::default() };
        sources.prepare().unwrap();
        let set = |key: &str, value: &str| {
            sources.change(&[(key.to_owned(), Some(value.to_owned()))]).map(|changed| changed.resolved)
        };
        assert_eq!(set("global.upload.slots", "9").unwrap().config.upload_slots, 9);
        let before = std::fs::read_to_string(sources.data_file()).unwrap();
        assert!(set("global.upload.slots", "none").is_err());
        assert!(set("memory.budget", "40").is_err(), "the program would not start with it");
        assert_eq!(std::fs::read_to_string(sources.data_file()).unwrap(), before);
        let shares = set("shares.directories", "/a\n[b]/c\n").unwrap().config.shares.directories;
        assert_eq!(shares, [(String::new(), "/a".to_owned()), ("b".to_owned(), "/c".to_owned())]);
    }

    #[test]
    fn mistakes_do_not_hide_one_another() {
        let folder = tempfile::tempdir().unwrap();
        let flags = vec!["web.port".to_owned(), "web.prot=1".to_owned(), "disk.min_free_mib=some".to_owned()];
        let environment = vec![("SLSKDN_WEB_PROT".to_owned(), "1".to_owned())];
        let sources = Sources { data: folder.path().to_owned(), flags, environment, ..Sources::default() };
        let told: Vec<String> = sources.load().unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 4, "{told:?}");
    }

    #[test]
    fn a_mistake_on_the_card_is_told_and_the_rest_of_it_counts() {
        let folder = tempfile::tempdir().unwrap();
        let card = folder.path().join("card");
        std::fs::create_dir_all(&card).unwrap();
        let sources = Sources { data: folder.path().join("data"), card: Some(card.clone()), ..Sources::default() };
        sources.prepare().unwrap();
        assert_eq!(sources.load().unwrap().config.web.address.to_string(), "0.0.0.0");
        let check = |yml: &str, told: usize, username: &str| {
            std::fs::write(card.join("slskdn.yml"), yml).unwrap();
            let resolved = sources.load().unwrap();
            assert_eq!(resolved.config.soulseek.username, username, "{yml}");
            assert_eq!(resolved.warnings.len(), told, "{yml}: {:?}", resolved.warnings);
        };
        let me = "soulseek:\n  username: me\n  password: x\n";
        check(me, 0, "me");
        check(&format!("{me}web:\n  prot: 1\n  port: many\n"), 2, "me");
        check(&format!("{me}memory:\n  budget: 40\n"), 1, "me");
        check("soulseek:\n  username: me\n", 1, "");
        check("soulseek: [\n", 1, "");
        check("\u{0}\u{1}", 1, "");
        std::fs::write(card.join("problems"), "hostname: line 1: a name\nslskdn.yml on the card:1:1: x\n").unwrap();
        check("web:\n  port: 0.5\n", 2, "");
        // Passwords that the page would not take.
        std::fs::remove_file(card.join("problems")).unwrap();
        for (weak, word) in [("1234567", "shorter"), ("“12345678”", "typographic")] {
            let yml = format!("web:\n  authentication:\n    password: \"{weak}\"\n");
            check(&yml, 1, "");
            assert!(sources.load().unwrap().warnings[0].message.contains(word));
        }
        check("web:\n  authentication:\n    password: \"12345678\"\n", 0, "");
        // The page's file is the owner's own: a mistake there is a mistake.
        std::fs::write(sources.data_file(), "web:\n  prot: 1\n").unwrap();
        assert!(sources.load().is_err());
    }

    #[test]
    fn secrets_of_the_card_are_kept_below_what_the_page_writes() {
        use std::os::unix::fs::PermissionsExt as _;

        use crate::app::appliance::node::{Appliance, keep_secrets};
        let folder = tempfile::tempdir().unwrap();
        let card = folder.path().join("card");
        std::fs::create_dir_all(&card).unwrap();
        let sources = Sources { data: folder.path().join("data"), card: Some(card.clone()), ..Sources::default() };
        sources.prepare().unwrap();
        let appliance = Appliance::new(Some(folder.path().to_owned()));
        let password = |sources: &Sources| sources.load().unwrap().config.soulseek.password;
        std::fs::write(card.join("slskdn.yml"), "soulseek:\n  username: me\n  password: one\n").unwrap();
        assert_eq!(keep_secrets(&sources, &appliance).unwrap(), 1);
        assert!(folder.path().join("run/slskdn-node/card/secrets-taken").exists());
        std::fs::write(card.join("slskdn.yml"), "soulseek:\n  username: me\n  password: ~\n").unwrap();
        assert_eq!(password(&sources), "one");
        assert_eq!(keep_secrets(&sources, &appliance).unwrap(), 0);
        sources.change(&[("soulseek.password".to_owned(), Some("two".to_owned()))]).unwrap();
        assert_eq!(password(&sources), "two");
        // A new one on the card counts again.
        std::fs::write(card.join("slskdn.yml"), "soulseek:\n  username: me\n  password: three\n").unwrap();
        keep_secrets(&sources, &appliance).unwrap();
        std::fs::write(card.join("slskdn.yml"), "soulseek:\n  username: me\n").unwrap();
        assert_eq!(password(&sources), "three");
        // A password without a name is of no use, and no reason not to come up.
        std::fs::write(card.join("slskdn.yml"), "").unwrap();
        assert_eq!(password(&sources), "");
        let mode = std::fs::metadata(sources.secrets_file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_change_that_did_not_work_out_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources { data: folder.path().to_owned(), ..Sources::default() };
        sources.prepare().unwrap();
        let before = std::fs::read_to_string(sources.data_file()).unwrap();
        let changed = sources.change(&[("web.port".to_owned(), Some("1".to_owned()))]).unwrap();
        assert_ne!(std::fs::read_to_string(sources.data_file()).unwrap(), before);
        sources.undo(&changed).unwrap();
        assert_eq!(std::fs::read_to_string(sources.data_file()).unwrap(), before);
    }

    #[test]
    fn a_key_set_back_has_its_default_again() {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources { data: folder.path().to_owned(), ..Sources::default() };
        sources.prepare().unwrap();
        let set = |key: &str, value: Option<&str>| {
            sources.change(&[(key.to_owned(), value.map(str::to_owned))]).unwrap().resolved.config
        };
        let default = config::resolve(&[]).unwrap().config;
        for (key, value) in [
            ("global.upload.slots", "9"),
            ("soulseek.address", "example.org"),
            ("shares.watch", "false"),
            ("log.level", "debug"),
            ("shares.filters", "a"),
            ("directories.downloads", "/d"),
        ] {
            assert_ne!(set(key, Some(value)), default, "{key}");
            assert_eq!(set(key, None), default, "{key}");
        }
    }

    #[test]
    fn secrets_of_digits_are_not_shown() {
        let given = |key: &str, value: &str| Given {
            key: key.to_owned(),
            value: Raw::One(value.to_owned()),
            place: Place::default(),
        };
        let layer = vec![
            given("soulseek.username", "me"),
            given("soulseek.password", "20250101"),
            given("web.authentication.password", "true"),
            given("web.authentication.api_keys.tool.key", "12345678901234567"),
        ];
        let text = print(&config::resolve(&[layer]).unwrap());
        assert!(!text.contains("20250101") && !text.contains("12345678901234567"), "{text}");
        assert_eq!(text.matches("\"(set)\"").count(), 3, "{text}");
    }

    #[test]
    fn the_schema_knows_every_key() {
        let schema = schema().to_string();
        for key in KEYS {
            assert!(schema.contains(key.name.rsplit('.').next().unwrap()), "{}", key.name);
        }
        assert!(schema.contains(r#""api_keys":{"additionalProperties":{"#), "{schema}");
    }
}
