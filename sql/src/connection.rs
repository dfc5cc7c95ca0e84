//! One client's connection: login, then commands until it leaves.
//!
//! **Concurrency.** One task owns the connection and its session. While a statement runs,
//! the reading half is watched: a client that goes away cancels its statement.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_types::errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncRead;
use tokio::net::TcpStream;

use crate::accounts::Account;
use crate::clock;
use crate::domain::Domain;
use crate::error::{Result, SqlError};
use crate::processes::{Process, ProcessGuard};
use crate::protocol::column::write_column;
use crate::protocol::command::Command;
use crate::protocol::constants::{capability, plugin, status};
use crate::protocol::handshake::{self, Greeting, Login, NONCE_BYTES};
use crate::protocol::resultset::RowFormat;
use crate::protocol::{PacketReader, PacketWriter, ProtocolError};
use crate::session::Session;
use crate::sink::{ClientSink, ClientWriter, OkInfo, ResultSink};

/// How long a client may take to log in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A client whose host vanished is asked whether it is there after this much silence, and then
/// again and again: its session, and what it holds, would else stay for ever.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
/// Second byte of an extra-data packet of `caching_sha2_password`: the fast path worked.
const SHA2_FAST_OK: u8 = 3;
/// Same: send the password itself.
const SHA2_FULL: u8 = 4;
/// What a client without TLS sends to get the server's public key.
const SHA2_REQUEST_KEY: u8 = 2;

type Reader = PacketReader<Box<dyn AsyncRead + Send + Unpin>>;

/// Serves one socket until it closes.
pub async fn serve(domain: Arc<Domain>, socket: TcpStream, address: SocketAddr) {
    if let Err(error) = set_up(&socket) {
        tracing::debug!(%error, "no TCP_NODELAY or keep-alive");
    }
    let (read_half, write_half) = socket.into_split();
    let reader: Reader = PacketReader::new(Box::new(read_half));
    let mut writer: ClientWriter = PacketWriter::new(Box::new(write_half));
    let limit = domain.config.connections_max;
    let Some(guard) = domain.processes.register(address.to_string(), limit) else {
        writer.packet(|out| {
            handshake::write_error(out, errno::ER_CON_COUNT_ERROR, "08004", "Too many connections");
        });
        let _ = writer.flush().await;
        return;
    };
    let mut connection = Connection {
        domain,
        guard,
        reader,
        writer,
        address,
        capabilities: 0,
        nonce: [0; NONCE_BYTES],
    };
    match connection.run().await {
        Ok(()) => {}
        Err(error @ (SqlError::Protocol(ProtocolError::Io(_)) | SqlError::Interrupted)) => {
            tracing::debug!(%error, client = %connection.address, "connection ended");
        }
        Err(error) => {
            tracing::info!(%error, client = %connection.address, "connection closed");
            connection.write_error(&error);
            let _ = connection.writer.flush().await;
        }
    }
}

/// Answers leave at once, and a client that vanished is noticed.
fn set_up(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(KEEP_ALIVE_AFTER).with_interval(KEEP_ALIVE_EVERY);
    SockRef::from(socket).set_tcp_keepalive(&probes)
}

struct Connection {
    domain: Arc<Domain>,
    guard: ProcessGuard,
    reader: Reader,
    writer: ClientWriter,
    address: SocketAddr,
    capabilities: u32,
    nonce: [u8; NONCE_BYTES],
}

impl Connection {
    async fn run(&mut self) -> Result<()> {
        let Ok(login) = tokio::time::timeout(LOGIN_TIMEOUT, self.log_in()).await else {
            return Err(SqlError::Interrupted);
        };
        let (account, login) = login?;
        let mut session = Session::new(
            Arc::clone(&self.domain),
            Arc::clone(&self.guard.process),
            &account,
            self.address.ip(),
            login.capabilities & capability::FOUND_ROWS != 0,
        );
        self.enter(&mut session, &login).await?;
        let outcome = self.commands(&mut session).await;
        session.close().await;
        outcome
    }

    /// Sets up a session after a login and says OK.
    async fn enter(&mut self, session: &mut Session, login: &Login) -> Result<()> {
        self.reader.set_packet_bytes_max(self.domain.config.max_allowed_packet_bytes);
        session.set_client_collation(login.collation);
        if let Some(database) = &login.database {
            session.use_database(database).await?;
        }
        let status = session.status_flags();
        self.writer.set_sequence(self.reader.next_sequence());
        self.sink(RowFormat::Text, false).ok(status, OkInfo::default()).await?;
        Ok(self.writer.flush().await?)
    }

    // --- connection phase ---------------------------------------------------------------

    async fn log_in(&mut self) -> Result<(Account, Login)> {
        self.nonce = clock::secret_bytes();
        let greeting = Greeting {
            server_version: &self.domain.config.server_version,
            connection_id: self.guard.process.id.0,
            nonce: &self.nonce,
            capabilities: capability::OFFERED,
            collation: 255,
            status: status::AUTOCOMMIT,
            plugin: plugin::CACHING_SHA2,
        };
        self.writer.packet(|out| greeting.write(out));
        self.writer.flush().await?;
        self.reader.begin_command();
        // The answer follows our greeting, which was packet 0.
        let payload = self.read_reply().await?;
        let login = Login::parse(&payload)?;
        self.capabilities = login.capabilities;
        let account = self.authenticate(&login).await?;
        Ok((account, login))
    }

    async fn read_reply(&mut self) -> Result<Bytes> {
        self.reader.expect_sequence(self.writer.next_sequence());
        let payload = self.reader.read().await?;
        self.writer.set_sequence(self.reader.next_sequence());
        payload.ok_or(SqlError::Interrupted)
    }

    fn access_denied(&self, user: &str, with_password: bool) -> SqlError {
        let using = if with_password { "YES" } else { "NO" };
        let host = crate::session::host_name(self.address.ip());
        SqlError::new(
            errno::ER_ACCESS_DENIED_ERROR,
            format!("Access denied for user '{user}'@'{host}' (using password: {using})"),
        )
    }

    /// Runs the plug-in's exchange; answers the account or 1045.
    async fn authenticate(&mut self, login: &Login) -> Result<Account> {
        let found = self.domain.accounts.find(&login.user, self.address.ip());
        let plugin_name =
            found.as_ref().map_or(plugin::CACHING_SHA2, |account| account.plugin.as_str());
        let mut response = login.auth_response.clone();
        if login.plugin != plugin_name {
            self.nonce = clock::secret_bytes();
            let nonce = self.nonce;
            self.writer.packet(|out| handshake::write_auth_switch(out, plugin_name, &nonce));
            self.writer.flush().await?;
            response = self.read_reply().await?.to_vec();
        }
        // An empty password may come as nothing or as one zero byte.
        let given = !matches!(response.as_slice(), [] | [0]);
        if !given {
            response.clear();
        }
        let Some(account) = found.filter(|account| !account.locked) else {
            return Err(self.access_denied(&login.user, given));
        };
        let proven = if account.plugin == plugin::NATIVE {
            crate::protocol::auth::native_verify(&account.secret, &self.nonce, &response)
        } else if account.secret.is_empty() || !given {
            account.secret.is_empty() && !given
        } else {
            self.authenticate_sha2(&account, &response).await?
        };
        if proven { Ok(account) } else { Err(self.access_denied(&login.user, given)) }
    }

    async fn authenticate_sha2(&mut self, account: &Account, response: &[u8]) -> Result<bool> {
        if self.domain.accounts.verify_fast(account, &self.nonce, response) {
            self.writer.packet(|out| handshake::write_auth_more(out, &[SHA2_FAST_OK]));
            return Ok(true);
        }
        self.writer.packet(|out| handshake::write_auth_more(out, &[SHA2_FULL]));
        self.writer.flush().await?;
        let mut reply = self.read_reply().await?;
        let key = self.domain.password_key().await?;
        if reply.as_ref() == [SHA2_REQUEST_KEY] {
            self.writer.packet(|out| handshake::write_auth_more(out, key.public_pem().as_bytes()));
            self.writer.flush().await?;
            reply = self.read_reply().await?;
        }
        let Some(password) = key.decrypt(&reply, &self.nonce) else { return Ok(false) };
        let proven = crate::protocol::auth::sha2_verify_password(&account.secret, &password);
        if proven {
            self.domain.accounts.remember(account, &password);
        }
        Ok(proven)
    }

    // --- command phase ------------------------------------------------------------------

    fn sink(&mut self, format: RowFormat, more_results: bool) -> ClientSink<'_> {
        ClientSink::new(&mut self.writer, self.capabilities, format, more_results)
    }

    fn write_error(&mut self, error: &SqlError) {
        let error = error.to_mysql();
        self.writer.packet(|out| {
            handshake::write_error(out, error.code, error.sqlstate, &error.message);
        });
    }

    async fn commands(&mut self, session: &mut Session) -> Result<()> {
        let killed = self.guard.process.connection.clone();
        loop {
            self.reader.begin_command();
            let idle = session.idle_timeout();
            let payload = tokio::select! {
                payload = self.reader.read() => payload,
                () = killed.cancelled() => return Ok(()),
                () = tokio::time::sleep(idle) => return Ok(()),
            };
            let payload = match payload {
                Ok(Some(payload)) => payload,
                Ok(None) => return Ok(()),
                Err(error @ ProtocolError::TooLarge { .. }) => {
                    self.writer.set_sequence(1);
                    return Err(SqlError::new(
                        errno::ER_NET_PACKET_TOO_LARGE,
                        format!("Got a packet bigger than 'max_allowed_packet' bytes ({error})"),
                    ));
                }
                Err(error) => return Err(error.into()),
            };
            self.writer.set_sequence(self.reader.next_sequence());
            let command = match Command::parse(payload) {
                Ok(Command::Quit) => return Ok(()),
                Ok(command) => command,
                Err(error) => {
                    self.write_error(&error.into());
                    self.writer.flush().await?;
                    continue;
                }
            };
            match self.command(session, command).await {
                Ok(()) => {}
                Err(error @ SqlError::Protocol(ProtocolError::Io(_))) => return Err(error),
                Err(error) => {
                    session.note_error(&error);
                    self.write_error(&error);
                }
            }
            self.guard.process.end();
            self.writer.flush().await?;
            if killed.is_cancelled() || session.wants_release() {
                return Ok(());
            }
        }
    }

    async fn command(&mut self, session: &mut Session, command: Command) -> Result<()> {
        let process = Arc::clone(&self.guard.process);
        match command {
            Command::Quit => Ok(()),
            Command::Ping | Command::NoEffect => self.ok(session).await,
            Command::InitDb(name) => {
                process.begin("Init DB", None);
                session.use_database(&name).await?;
                self.ok(session).await
            }
            Command::Query(text) => self.query(session, &process, text).await,
            Command::StmtPrepare(text) => self.prepare(session, &process, text).await,
            Command::StmtExecute { statement_id, flags: _, payload } => {
                let Self { reader, writer, capabilities, .. } = self;
                let mut sink = ClientSink::new(writer, *capabilities, RowFormat::Binary, false);
                let token = process.begin("Execute", None);
                let run =
                    session.execute_prepared(statement_id, &payload, token.clone(), &mut sink);
                tokio::pin!(run);
                tokio::select! {
                    outcome = &mut run => return outcome,
                    () = reader.closed() => token.cancel(),
                }
                run.await
            }
            Command::StmtSendLongData { statement_id, parameter, data } => {
                // The protocol allows no answer here; a failure is told by the execution.
                session.append_long_data(statement_id, usize::from(parameter), &data);
                Ok(())
            }
            Command::StmtClose(statement_id) => {
                session.close_statement(statement_id);
                Ok(())
            }
            Command::StmtReset(statement_id) => {
                session.reset_statement(statement_id)?;
                self.ok(session).await
            }
            Command::StmtFetch { .. } => Err(SqlError::not_supported("cursors")),
            Command::SetOption(option) => {
                match option {
                    0 => self.capabilities |= capability::MULTI_STATEMENTS,
                    1 => self.capabilities &= !capability::MULTI_STATEMENTS,
                    _ => {
                        return Err(SqlError::new(errno::ER_UNKNOWN_COM_ERROR, "Unknown command"));
                    }
                }
                let status = session.status_flags();
                if self.capabilities & capability::DEPRECATE_EOF != 0 {
                    return self.ok(session).await;
                }
                crate::sink::write_eof(&mut self.writer, status, 0);
                Ok(())
            }
            Command::ResetConnection => {
                session.reset().await?;
                self.ok(session).await
            }
            Command::ChangeUser(payload) => self.change_user(session, &payload).await,
            Command::FieldList { table } => self.field_list(session, &table).await,
            Command::Statistics => {
                let text = self.domain.statistics_line();
                self.writer.packet(|out| out.extend_from_slice(text.as_bytes()));
                Ok(())
            }
            Command::ProcessInfo => {
                self.query(session, &process, Bytes::from_static(b"SHOW PROCESSLIST")).await
            }
            Command::ProcessKill(id) => {
                session.kill(crate::processes::ConnectionId(id), false)?;
                self.ok(session).await
            }
            Command::Unknown(_) => {
                Err(SqlError::new(errno::ER_UNKNOWN_COM_ERROR, "Unknown command"))
            }
        }
    }

    async fn ok(&mut self, session: &mut Session) -> Result<()> {
        let status = session.status_flags();
        self.sink(RowFormat::Text, false).ok(status, OkInfo::default()).await
    }

    async fn query(&mut self, session: &mut Session, process: &Process, text: Bytes) -> Result<()> {
        let text = session.decode_text(&text)?;
        let multi = self.capabilities & capability::MULTI_STATEMENTS != 0;
        let token = process.begin("Query", Some(text.to_string()));
        let mut statements = session.split(&text, multi)?;
        while let Some(statement) = statements.next_statement()? {
            let more = statements.has_more();
            let Self { reader, writer, capabilities, .. } = self;
            let mut sink = ClientSink::new(writer, *capabilities, RowFormat::Text, more);
            let run = session.execute(statement, token.clone(), &mut sink);
            tokio::pin!(run);
            tokio::select! {
                outcome = &mut run => { outcome?; continue; }
                () = reader.closed() => token.cancel(),
            }
            run.await?;
        }
        Ok(())
    }

    async fn prepare(
        &mut self,
        session: &mut Session,
        process: &Process,
        text: Bytes,
    ) -> Result<()> {
        let text = session.decode_text(&text)?;
        let token = process.begin("Prepare", Some(text.to_string()));
        let prepared = session.prepare(&text, token).await?;
        let deprecate_eof = self.capabilities & capability::DEPRECATE_EOF != 0;
        let (parameters, columns) = (&prepared.parameters, &prepared.columns);
        self.writer.packet(|out| {
            out.push(0);
            out.extend_from_slice(&prepared.statement_id.to_le_bytes());
            out.extend_from_slice(&(columns.len() as u16).to_le_bytes());
            out.extend_from_slice(&(parameters.len() as u16).to_le_bytes());
            out.push(0);
            out.extend_from_slice(&(prepared.warnings as u16).to_le_bytes());
        });
        let status = session.status_flags();
        for group in [parameters, columns] {
            for column in group {
                self.writer.packet(|out| write_column(column, out));
            }
            if !group.is_empty() && !deprecate_eof {
                crate::sink::write_eof(&mut self.writer, status, 0);
            }
        }
        Ok(())
    }

    async fn field_list(&mut self, session: &mut Session, table: &str) -> Result<()> {
        for column in session.field_list(table)? {
            self.writer.packet(|out| {
                write_column(&column, out);
                out.push(0xfb);
            });
        }
        let status = session.status_flags();
        if self.capabilities & capability::DEPRECATE_EOF != 0 {
            let ok = handshake::Ok { status, ..handshake::Ok::default() };
            self.writer.packet(|out| ok.write(out, 0xfe));
        } else {
            crate::sink::write_eof(&mut self.writer, status, 0);
        }
        Ok(())
    }

    /// `COM_CHANGE_USER`: a new login and a fresh session, or the end of the connection.
    async fn change_user(&mut self, session: &mut Session, payload: &[u8]) -> Result<()> {
        let login = Login::parse_change_user(payload, self.capabilities)?;
        session.reset().await?;
        let account = match self.authenticate(&login).await {
            Ok(account) => account,
            Err(error) => {
                // Answered here; the connection then closes, as MySQL's does.
                self.write_error(&error);
                self.guard.process.connection.cancel();
                return Ok(());
            }
        };
        session.set_identity(&account, self.address.ip());
        self.enter(session, &login).await
    }
}
