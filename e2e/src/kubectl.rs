//! Real `kubectl` against one cluster.
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

#[derive(Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: Option<String>,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Output {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Kubectl {
    pub fn new(kubeconfig: PathBuf) -> Self {
        Self { program: "kubectl".into(), kubeconfig, namespace: None }
    }

    /// The same with another program, such as an older version.
    #[must_use]
    pub fn with_program(&self, program: PathBuf) -> Self {
        Self { program, ..self.clone() }
    }

    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self.clone() }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        // Discovery is cached per cluster directory, so that one test run never reads another's.
        command.arg("--cache-dir").arg(self.kubeconfig.with_file_name("kubectl-cache"));
        if let Some(namespace) = &self.namespace {
            command.arg("--namespace").arg(namespace);
        }
        command.args(arguments);
        command
    }

    /// Runs to the end, whatever the outcome.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.run_with_input(arguments, "")
    }

    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}: ./dev test fetches it", self.program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).or_else(|error| match error.kind() {
                std::io::ErrorKind::BrokenPipe => Ok(()), // it did not read its input
                _ => Err(error),
            })?;
        }
        let output = child.wait_with_output()?;
        Ok(Output {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs and returns what was printed; a failure is an error.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        self.ok_with_input(arguments, "")
    }

    pub fn ok_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.run_with_input(arguments, input)?;
        if !output.success {
            bail!("kubectl {} failed: {}{}", arguments.join(" "), output.stdout, output.stderr);
        }
        Ok(output.stdout)
    }

    /// Runs and expects a failure; returns standard error.
    pub fn refused(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.run_with_input(arguments, input)?;
        if output.success {
            bail!("kubectl {} succeeded: {}", arguments.join(" "), output.stdout);
        }
        Ok(output.stderr)
    }

    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        Ok(serde_json::from_str(&self.ok(&all)?)?)
    }

    /// Starts a command that goes on (`get -w`, `logs -f`, `port-forward`); it ends when dropped.
    pub fn start(&self, arguments: &[&str]) -> Result<Running> {
        self.start_command(self.command(arguments))
    }

    /// As [`Self::start`], for a command with an environment of its own.
    pub fn start_command(&self, mut command: Command) -> Result<Running> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        Ok(Running { child })
    }
}

/// A `kubectl` that goes on.
pub struct Running {
    child: Child,
}

impl Running {
    /// Ends it and returns what it had printed.
    pub fn finish(mut self) -> Result<String> {
        self.child.kill()?;
        let mut printed = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            std::io::Read::read_to_string(&mut stdout, &mut printed)?;
        }
        self.child.wait()?;
        Ok(printed)
    }

    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
