//! Prepared statements of a session: by number (binary protocol) and by name (`PREPARE`).

use std::collections::HashMap;
use std::sync::Arc;

use cairn_parser::ast::{ParsedStatement, Statement};
use cairn_planner::OutputColumn;
use cairn_types::{Datum, FieldType, errno};
use tokio_util::sync::CancellationToken;

use super::{Session, fold_name};
use crate::error::{Result, SqlError};
use crate::protocol::command::{ParameterType, decode_parameters};
use crate::session::text::QueuedStatement;
use crate::sink::ResultSink;
use crate::statement;

/// Most parameters of one statement: their number travels in 16 bits.
const PARAMETERS_MAX: usize = 65_535;
/// Most prepared statements of one session.
const STATEMENTS_MAX: usize = 16_382;
/// Most bytes of one parameter sent in pieces.
const LONG_DATA_BYTES_MAX: usize = 64 << 20;

/// A prepared statement.
#[derive(Debug)]
pub struct Prepared {
    /// The tree.
    pub statement: Arc<ParsedStatement>,
    /// Its text.
    pub text: Arc<str>,
    /// Number of `?` markers.
    pub parameter_count: usize,
    types: Vec<ParameterType>,
    long_data: Vec<Option<Vec<u8>>>,
    long_data_error: bool,
}

/// What a client learns of a statement it prepared.
#[derive(Debug)]
pub struct PreparedInfo {
    /// Its number.
    pub statement_id: u32,
    /// One definition per marker.
    pub parameters: Vec<OutputColumn>,
    /// Result columns; empty for statements without rows.
    pub columns: Vec<OutputColumn>,
    /// Warnings while preparing.
    pub warnings: usize,
}

/// All prepared statements of a session.
#[derive(Debug, Default)]
pub struct PreparedStatements {
    by_id: HashMap<u32, Prepared>,
    by_name: HashMap<String, Arc<ParsedStatement>>,
    texts: HashMap<String, Arc<str>>,
    last_id: u32,
}

fn unknown_statement(id: impl std::fmt::Display, what: &str) -> SqlError {
    SqlError::new(
        errno::ER_UNKNOWN_STMT_HANDLER,
        format!("Unknown prepared statement handler ({id}) given to {what}"),
    )
}

impl Session {
    fn parse_for_prepare(&self, text: &str) -> Result<QueuedStatement> {
        let mut queue = self.split(text, false)?;
        let statement = queue.next_statement()?.ok_or(SqlError::Interrupted)?;
        let is_prepare = matches!(
            statement.parsed.statement,
            Statement::Prepare(_) | Statement::Execute(_) | Statement::Deallocate(_)
        );
        if is_prepare {
            return Err(SqlError::new(
                errno::ER_UNSUPPORTED_PS,
                "This command is not supported in the prepared statement protocol yet",
            ));
        }
        if statement.parsed.parameter_count as usize > PARAMETERS_MAX {
            return Err(SqlError::new(1390, "Prepared statement contains too many placeholders"));
        }
        Ok(statement)
    }

    /// `COM_STMT_PREPARE`.
    pub async fn prepare(&mut self, text: &str, token: CancellationToken) -> Result<PreparedInfo> {
        self.begin_statement(token);
        self.diagnostics = super::Diagnostics::default();
        let QueuedStatement { parsed, text, .. } = self.parse_for_prepare(text)?;
        let columns = statement::describe(self, &parsed).await?;
        if self.prepared.by_id.len() == STATEMENTS_MAX {
            return Err(SqlError::new(
                1461,
                format!(
                    "Can't create more than max_prepared_stmt_count statements (current value: {STATEMENTS_MAX})"
                ),
            ));
        }
        self.prepared.last_id += 1;
        let statement_id = self.prepared.last_id;
        let parameter_count = parsed.parameter_count as usize;
        let parameters = (0..parameter_count)
            .map(|_| OutputColumn::computed("?", FieldType::varbinary(0)))
            .collect();
        let prepared = Prepared {
            statement: Arc::new(parsed),
            text: text.into(),
            parameter_count,
            types: Vec::new(),
            long_data: Vec::new(),
            long_data_error: false,
        };
        self.prepared.by_id.insert(statement_id, prepared);
        let warnings = self.diagnostics.list.len();
        Ok(PreparedInfo { statement_id, parameters, columns, warnings })
    }

    /// `COM_STMT_EXECUTE`.
    pub async fn execute_prepared(
        &mut self,
        statement_id: u32,
        payload: &[u8],
        token: CancellationToken,
        sink: &mut dyn ResultSink,
    ) -> Result<()> {
        self.begin_statement(token);
        let prepared = self.prepared.by_id.get_mut(&statement_id);
        let prepared =
            prepared.ok_or_else(|| unknown_statement(statement_id, "mysqld_stmt_execute"))?;
        let long_data = std::mem::take(&mut prepared.long_data);
        if std::mem::take(&mut prepared.long_data_error) {
            return Err(SqlError::new(
                errno::ER_NET_PACKET_TOO_LARGE,
                "Parameter of prepared statement which is set through mysql_send_long_data() is \
                 longer than 'max_allowed_packet' bytes",
            ));
        }
        let values =
            decode_parameters(payload, prepared.parameter_count, &mut prepared.types, &long_data)?;
        let (statement, text) = (Arc::clone(&prepared.statement), Arc::clone(&prepared.text));
        let types = values.iter().map(|value| parameter_type(self, value)).collect::<Vec<_>>();
        let parameters = statement::Parameters { values, types };
        statement::execute_prepared(self, &statement, &text, parameters, sink).await
    }

    /// `COM_STMT_SEND_LONG_DATA`; a failure is told by the execution.
    pub fn append_long_data(&mut self, statement_id: u32, parameter: usize, data: &[u8]) {
        let Some(prepared) = self.prepared.by_id.get_mut(&statement_id) else { return };
        if parameter >= prepared.parameter_count {
            prepared.long_data_error = true;
            return;
        }
        prepared.long_data.resize(prepared.parameter_count, None);
        let value = prepared.long_data[parameter].get_or_insert_default();
        if value.len() + data.len() > LONG_DATA_BYTES_MAX {
            prepared.long_data_error = true;
        } else {
            value.extend_from_slice(data);
        }
    }

    /// `COM_STMT_CLOSE`.
    pub fn close_statement(&mut self, statement_id: u32) {
        self.prepared.by_id.remove(&statement_id);
    }

    /// `COM_STMT_RESET`.
    pub fn reset_statement(&mut self, statement_id: u32) -> Result<()> {
        let prepared = self.prepared.by_id.get_mut(&statement_id);
        let prepared =
            prepared.ok_or_else(|| unknown_statement(statement_id, "mysqld_stmt_reset"))?;
        prepared.long_data.clear();
        prepared.long_data_error = false;
        Ok(())
    }

    /// `PREPARE name FROM text`.
    pub async fn prepare_named(&mut self, name: &str, text: &str) -> Result<()> {
        let name = fold_name(name);
        // A failed PREPARE also forgets the statement of that name.
        self.prepared.by_name.remove(&name);
        let QueuedStatement { parsed, text, .. } = self.parse_for_prepare(text)?;
        statement::describe(self, &parsed).await?;
        if self.prepared.by_name.len() == STATEMENTS_MAX {
            return Err(SqlError::new(
                1461,
                "Can't create more than max_prepared_stmt_count statements",
            ));
        }
        self.prepared.texts.insert(name.clone(), text.into());
        self.prepared.by_name.insert(name, Arc::new(parsed));
        Ok(())
    }

    /// The statement that `EXECUTE name` runs.
    pub fn named_statement(&self, name: &str) -> Result<(Arc<ParsedStatement>, Arc<str>)> {
        let folded = fold_name(name);
        let found = self.prepared.by_name.get(&folded).zip(self.prepared.texts.get(&folded));
        let (statement, text) = found.ok_or_else(|| unknown_statement(name, "EXECUTE"))?;
        Ok((Arc::clone(statement), Arc::clone(text)))
    }

    /// `DEALLOCATE PREPARE name`.
    pub fn deallocate(&mut self, name: &str) -> Result<()> {
        let folded = fold_name(name);
        self.prepared.texts.remove(&folded);
        let removed = self.prepared.by_name.remove(&folded);
        removed.map(|_| ()).ok_or_else(|| unknown_statement(name, "DEALLOCATE PREPARE"))
    }
}

/// The type a parameter has as an expression.
pub fn parameter_type(session: &Session, value: &Datum) -> FieldType {
    match value {
        Datum::Null => FieldType::null(),
        Datum::Int(_) => FieldType::bigint(),
        Datum::UInt(_) => FieldType::bigint_unsigned(),
        Datum::Float(_) | Datum::Double(_) => FieldType::double(),
        Datum::Decimal(decimal) => FieldType::decimal(decimal.precision().max(1), decimal.scale()),
        Datum::Time(_) => FieldType::datetime(6),
        Datum::Duration(_) => FieldType::time(6),
        Datum::Json(_) => FieldType::json(),
        Datum::Bytes(bytes) => {
            // Drivers send both text and blobs as strings: what is no text is binary.
            if std::str::from_utf8(bytes).is_ok() {
                FieldType::string().with_collation(session.settings().collation)
            } else {
                FieldType::varbinary(bytes.len() as u32)
            }
        }
    }
}
