//! Where a statement's results go: to a client's connection, or into memory for Cairn's
//! own use of SQL.

use std::sync::Arc;

use async_trait::async_trait;
use cairn_planner::OutputColumn;
use cairn_types::{Chunk, Datum};

use crate::error::{Result, SqlError};
use crate::protocol::column::write_column;
use crate::protocol::constants::{capability, status};
use crate::protocol::handshake;
use crate::protocol::packet::PacketWriter;
use crate::protocol::resultset::{RowFormat, RowWriter};
use crate::protocol::wire::put_lenenc;

/// The writing half of a client's connection.
pub type ClientWriter = PacketWriter<Box<dyn tokio::io::AsyncWrite + Send + Unpin>>;

/// What an OK packet tells beside its status flags.
#[derive(Clone, Debug, Default)]
pub struct OkInfo {
    /// Rows changed (or found).
    pub affected_rows: u64,
    /// First generated value.
    pub last_insert_id: u64,
    /// Number of warnings.
    pub warnings: usize,
    /// Text for people.
    pub info: String,
}

/// Takes the results of one statement: either one `ok`, or `begin_rows`, rows, `end_rows`.
#[async_trait]
pub trait ResultSink: Send {
    /// Opens a result set.
    async fn begin_rows(&mut self, columns: Arc<[OutputColumn]>) -> Result<()>;
    /// The chosen rows of a chunk; its columns are those of `begin_rows`.
    async fn chunk(&mut self, chunk: &Chunk) -> Result<()>;
    /// One row.
    async fn row(&mut self, values: &[Datum]) -> Result<()>;
    /// One row written by its source straight into the packet (point reads). `write`
    /// appends every value through the [`RowWriter`].
    async fn raw_row(
        &mut self,
        write: &mut (dyn for<'a> FnMut(&'a mut Vec<u8>, RowFormat) -> Result<()> + Send),
    ) -> Result<()>;
    /// Closes the result set. `session_status`: status flags of the session.
    async fn end_rows(&mut self, session_status: u16, warnings: usize) -> Result<()>;
    /// The statement has no rows.
    async fn ok(&mut self, session_status: u16, ok: OkInfo) -> Result<()>;
}

/// Writes results as MySQL packets.
pub struct ClientSink<'a> {
    writer: &'a mut ClientWriter,
    capabilities: u32,
    format: RowFormat,
    /// Another statement of the same packet follows.
    more_results: bool,
    columns: Arc<[OutputColumn]>,
}

impl<'a> ClientSink<'a> {
    /// A sink for one statement.
    pub fn new(
        writer: &'a mut ClientWriter,
        capabilities: u32,
        format: RowFormat,
        more_results: bool,
    ) -> Self {
        Self { writer, capabilities, format, more_results, columns: Arc::default() }
    }

    fn status(&self, session_status: u16) -> u16 {
        session_status | if self.more_results { status::MORE_RESULTS } else { 0 }
    }

    fn deprecate_eof(&self) -> bool {
        self.capabilities & capability::DEPRECATE_EOF != 0
    }
}

/// Writes a legacy EOF packet.
pub fn write_eof(writer: &mut ClientWriter, session_status: u16, warnings: usize) {
    writer.packet(|out| {
        out.push(0xfe);
        out.extend_from_slice(&(warnings.min(usize::from(u16::MAX)) as u16).to_le_bytes());
        out.extend_from_slice(&session_status.to_le_bytes());
    });
}

#[async_trait]
impl ResultSink for ClientSink<'_> {
    async fn begin_rows(&mut self, columns: Arc<[OutputColumn]>) -> Result<()> {
        self.writer.packet(|out| put_lenenc(out, columns.len() as u64));
        for column in &*columns {
            self.writer.packet(|out| write_column(column, out));
        }
        if !self.deprecate_eof() {
            write_eof(self.writer, 0, 0);
        }
        self.columns = columns;
        Ok(())
    }

    async fn chunk(&mut self, chunk: &Chunk) -> Result<()> {
        let count = self.columns.len();
        for row in chunk.selected() {
            let (columns, format) = (&self.columns, self.format);
            self.writer.packet(|out| {
                let mut row_writer = RowWriter::begin(format, count, out);
                for (column, definition) in chunk.columns.iter().zip(&**columns) {
                    row_writer.value(out, column.get(row), &definition.ty);
                }
            });
            self.writer.flush_if_large().await?;
        }
        Ok(())
    }

    async fn row(&mut self, values: &[Datum]) -> Result<()> {
        let (columns, format) = (&self.columns, self.format);
        self.writer.packet(|out| {
            let mut row_writer = RowWriter::begin(format, columns.len(), out);
            for (value, definition) in values.iter().zip(&**columns) {
                row_writer.value(out, value.as_ref(), &definition.ty);
            }
        });
        Ok(self.writer.flush_if_large().await?)
    }

    async fn raw_row(
        &mut self,
        write: &mut (dyn for<'b> FnMut(&'b mut Vec<u8>, RowFormat) -> Result<()> + Send),
    ) -> Result<()> {
        let format = self.format;
        let (mark, sequence) = (self.writer.buffered_bytes(), self.writer.next_sequence());
        let mut outcome = Ok(());
        self.writer.packet(|out| outcome = write(out, format));
        if outcome.is_err() {
            self.writer.truncate(mark, sequence);
        }
        outcome?;
        Ok(self.writer.flush_if_large().await?)
    }

    async fn end_rows(&mut self, session_status: u16, warnings: usize) -> Result<()> {
        let session_status = self.status(session_status);
        if self.deprecate_eof() {
            let ok = handshake::Ok {
                status: session_status,
                warnings: warnings.min(usize::from(u16::MAX)) as u16,
                ..handshake::Ok::default()
            };
            self.writer.packet(|out| ok.write(out, 0xfe));
        } else {
            write_eof(self.writer, session_status, warnings);
        }
        Ok(())
    }

    async fn ok(&mut self, session_status: u16, ok: OkInfo) -> Result<()> {
        let ok = handshake::Ok {
            affected_rows: ok.affected_rows,
            last_insert_id: ok.last_insert_id,
            status: self.status(session_status),
            warnings: ok.warnings.min(usize::from(u16::MAX)) as u16,
            info: &ok.info,
        };
        self.writer.packet(|out| ok.write(out, 0));
        Ok(())
    }
}

/// Most rows an internal query may gather.
const COLLECTED_ROWS_MAX: usize = 1_000_000;

/// Gathers rows in memory: Cairn's own queries and tests.
#[derive(Debug, Default)]
pub struct CollectSink {
    /// Columns of the result set, empty for an OK.
    pub columns: Arc<[OutputColumn]>,
    /// Rows in order.
    pub rows: Vec<Vec<Datum>>,
    /// The OK, when the statement had no rows.
    pub ok: Option<OkInfo>,
}

impl CollectSink {
    fn push(&mut self, row: Vec<Datum>) -> Result<()> {
        if self.rows.len() == COLLECTED_ROWS_MAX {
            return Err(SqlError::not_supported("an internal query with over a million rows"));
        }
        self.rows.push(row);
        Ok(())
    }
}

#[async_trait]
impl ResultSink for CollectSink {
    async fn begin_rows(&mut self, columns: Arc<[OutputColumn]>) -> Result<()> {
        self.columns = columns;
        Ok(())
    }

    async fn chunk(&mut self, chunk: &Chunk) -> Result<()> {
        for row in chunk.selected() {
            self.push(chunk.row(row))?;
        }
        Ok(())
    }

    async fn row(&mut self, values: &[Datum]) -> Result<()> {
        self.push(values.to_vec())
    }

    async fn raw_row(
        &mut self,
        _write: &mut (dyn for<'b> FnMut(&'b mut Vec<u8>, RowFormat) -> Result<()> + Send),
    ) -> Result<()> {
        Err(SqlError::not_supported("packet rows outside a connection"))
    }

    async fn end_rows(&mut self, _session_status: u16, _warnings: usize) -> Result<()> {
        Ok(())
    }

    async fn ok(&mut self, _session_status: u16, ok: OkInfo) -> Result<()> {
        self.ok = Some(ok);
        Ok(())
    }
}
