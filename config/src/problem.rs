use std::fmt;

/// One thing wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, 1 for the first.
    pub line: usize,
    /// Column in characters, 1 for the first.
    pub column: usize,
    /// The key's full path (`bgp.neighbor[0].egress`); empty for a syntax error.
    pub key: String,
    /// What is wrong, what is allowed, and the remedy.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}; check the path given to --config")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file can be read but not used.
    #[error("{}", listed(.name, .problems))]
    Invalid {
        /// The file's name.
        name: String,
        /// All problems found, in the order of the file.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// All problems found in the file; empty where it could not be read.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Read { .. } => &[],
            Self::Invalid { problems, .. } => problems,
        }
    }
}

fn listed(name: &str, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(|p| format!("{name}:{p}")).collect();
    lines.join("\n")
}
