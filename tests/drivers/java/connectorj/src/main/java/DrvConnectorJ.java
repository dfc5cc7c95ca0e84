import java.io.ByteArrayInputStream;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Properties;
import java.util.Random;
import java.util.stream.Collectors;

/** Connector/J: with statements prepared by the driver (text protocol) and by the server (binary). */
public final class DrvConnectorJ {
    private static final String PORT = System.getenv("CAIRN_PORT");
    private static final String PASSWORD = "pass'word";
    private static final String DATABASE = "drv_connectorj";
    private static final byte[] ALL_BYTES = new byte[256];

    static {
        for (int i = 0; i < ALL_BYTES.length; i++) {
            ALL_BYTES[i] = (byte) i;
        }
    }

    /** A column, its type, and the value written and read; {@code getString} reads when it is text. */
    private record Column(String name, String kind, Object value) {}

    private static final List<Column> EVERY_TYPE = List.of(
            new Column("c_tinyint", "TINYINT", -128),
            new Column("c_utinyint", "TINYINT UNSIGNED", 255),
            new Column("c_smallint", "SMALLINT", -32768),
            new Column("c_mediumint", "MEDIUMINT", -8388608),
            new Column("c_int", "INT", -2147483648),
            new Column("c_uint", "INT UNSIGNED", 4294967295L),
            new Column("c_bigint", "BIGINT", Long.MIN_VALUE),
            new Column("c_ubigint", "BIGINT UNSIGNED", new BigInteger("18446744073709551615")),
            new Column("c_decimal", "DECIMAL(65,30)",
                    new BigDecimal("12345678901234567890.123456789012345678901234567890")),
            new Column("c_float", "FLOAT", 1.5f),
            new Column("c_double", "DOUBLE", 3.141592653589793),
            new Column("c_char", "CHAR(10)", "char"),
            new Column("c_varchar", "VARCHAR(50)", "größe 漢字 🦀"),
            new Column("c_binary", "BINARY(4)", new byte[] {0, 1, -2, -1}),
            new Column("c_varbinary", "VARBINARY(10)", new byte[] {0, '\'', '"', '\\', '\n', -1}),
            new Column("c_tinytext", "TINYTEXT", "tiny"),
            new Column("c_text", "TEXT", "te\\xt' \n"),
            new Column("c_mediumtext", "MEDIUMTEXT", "m".repeat(70000)),
            new Column("c_longtext", "LONGTEXT", "l".repeat(300)),
            new Column("c_tinyblob", "TINYBLOB", new byte[] {-128}),
            new Column("c_blob", "BLOB", ALL_BYTES),
            new Column("c_mediumblob", "MEDIUMBLOB", new byte[70000]),
            new Column("c_longblob", "LONGBLOB", new byte[0]),
            new Column("c_date", "DATE", java.time.LocalDate.of(2024, 2, 29)),
            new Column("c_datetime", "DATETIME(6)",
                    java.time.LocalDateTime.of(2024, 2, 29, 23, 59, 59, 123456000)),
            new Column("c_timestamp", "TIMESTAMP(6) NULL",
                    java.time.LocalDateTime.of(2024, 3, 1, 1, 2, 3, 654321000)),
            new Column("c_time", "TIME(6)", java.time.Duration.ofHours(100).plusSeconds(62).plusMillis(500)),
            new Column("c_year", "YEAR", 2024),
            new Column("c_bit", "BIT(10)", new byte[] {2, (byte) 0xa5}),
            new Column("c_enum", "ENUM('a','b','c')", "b"),
            new Column("c_set", "SET('x','y','z')", "x,z"),
            new Column("c_json", "JSON", "{\"a\": [1, 2.5, \"x\"], \"b\": null}"));

    private DrvConnectorJ() {}

    /** Runs everything; an exception is the failure. */
    public static void main(String[] arguments) throws SQLException {
        for (String user : new String[] {"root", "drv_native", "drv_sha2"}) {
            try (Connection connection = connect(user, user.equals("root") ? "" : PASSWORD, "", false)) {
                expect(scalar(connection, "SELECT CURRENT_USER()"), user + "@%", "user");
            }
        }
        expectError(1045, () -> connect("drv_native", "wrong", "", false));
        for (boolean onServer : new boolean[] {false, true}) {
            try (Connection connection = connect("root", "", "", onServer)) {
                execute(connection, "DROP DATABASE IF EXISTS " + DATABASE);
                execute(connection, "CREATE DATABASE " + DATABASE);
                connection.setCatalog(DATABASE);
                String mode = onServer ? "server-prepared: " : "driver-prepared: ";
                System.err.println(mode + "starts");
                checkTypes(connection, mode);
                checkMetadata(connection);
                checkTransactions(connection);
                checkErrors(connection);
                checkInserts(connection);
                checkStreams(connection);
                execute(connection, "DROP DATABASE " + DATABASE);
            }
        }
    }

    private static Connection connect(String user, String password, String database, boolean onServer)
            throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", user);
        properties.setProperty("password", password);
        properties.setProperty("sslMode", "DISABLED");
        properties.setProperty("allowPublicKeyRetrieval", "true");
        properties.setProperty("useServerPrepStmts", Boolean.toString(onServer));
        properties.setProperty("cachePrepStmts", Boolean.toString(onServer));
        properties.setProperty("useCursorFetch", Boolean.toString(onServer));
        properties.setProperty("yearIsDateType", "false");
        return DriverManager.getConnection("jdbc:mysql://127.0.0.1:" + PORT + "/" + database, properties);
    }

    private static void checkTypes(Connection connection, String mode) throws SQLException {
        String columns = EVERY_TYPE.stream().map(c -> c.name + " " + c.kind).collect(Collectors.joining(", "));
        execute(connection, "CREATE TABLE every_type (id INT PRIMARY KEY, " + columns + ")");
        String insert = "INSERT INTO every_type VALUES (?" + ", ?".repeat(EVERY_TYPE.size()) + ")";
        try (PreparedStatement statement = connection.prepareStatement(insert)) {
            for (int id = 1; id <= 2; id++) {
                statement.setInt(1, id);
                for (int i = 0; i < EVERY_TYPE.size(); i++) {
                    statement.setObject(i + 2, id == 1 ? written(EVERY_TYPE.get(i).value) : null);
                }
                expect(statement.executeUpdate(), 1, mode + "affected rows");
            }
        }
        try (PreparedStatement statement = connection.prepareStatement("SELECT * FROM every_type WHERE id = ?")) {
            for (int id = 1; id <= 2; id++) {
                statement.setInt(1, id);
                try (ResultSet rows = statement.executeQuery()) {
                    expect(rows.next(), true, mode + "a row");
                    for (Column column : EVERY_TYPE) {
                        expect(read(rows, column), id == 1 ? column.value : null, mode + column.name);
                    }
                }
            }
        }
    }

    /** As text: JDBC has no type for more than a day (and the driver misreads binary times below
     *  zero), and the driver cuts a BigInteger to a signed long. */
    private static Object written(Object value) {
        if (value instanceof BigInteger) {
            return value.toString();
        }
        return value instanceof java.time.Duration ? "100:01:02.500000" : value;
    }

    private static Object read(ResultSet rows, Column column) throws SQLException {
        if (column.value instanceof java.time.Duration) {
            String text = rows.getString(column.name);
            return Objects.equals(text, "100:01:02.500000") ? column.value : text;
        }
        if (column.value instanceof byte[]) {
            return rows.getBytes(column.name);
        }
        return rows.getObject(column.name, column.value.getClass());
    }

    /** What tools and ORMs ask of the driver, answered from information_schema and SHOW. */
    private static void checkMetadata(Connection connection) throws SQLException {
        try (ResultSet columns = connection.getMetaData().getColumns(DATABASE, null, "every_type", "%")) {
            int count = 0;
            while (columns.next()) {
                count++;
            }
            expect(count, EVERY_TYPE.size() + 1, "columns in the metadata");
        }
        try (ResultSet keys = connection.getMetaData().getPrimaryKeys(DATABASE, null, "every_type")) {
            expect(keys.next(), true, "primary key in the metadata");
            expect(keys.getString("COLUMN_NAME"), "id", "primary key");
        }
    }

    private static void checkTransactions(Connection connection) throws SQLException {
        execute(connection, "CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL)");
        execute(connection, "INSERT INTO account VALUES (1, 100), (2, 0)");
        connection.setAutoCommit(false);
        try (PreparedStatement add = connection.prepareStatement(
                "UPDATE account SET balance = balance + ? WHERE id = ?")) {
            add(add, -10, 1);
            connection.rollback();
            add(add, -30, 1);
            var savepoint = connection.setSavepoint("before");
            add(add, 1000, 2);
            connection.rollback(savepoint);
            add(add, 30, 2);
            connection.commit();
        }
        connection.setAutoCommit(true);
        expect(scalar(connection, "SELECT balance FROM account WHERE id = 1"), "70", "first balance");
        expect(scalar(connection, "SELECT balance FROM account WHERE id = 2"), "30", "second balance");
    }

    private static void add(PreparedStatement statement, int amount, int id) throws SQLException {
        statement.setInt(1, amount);
        statement.setInt(2, id);
        expect(statement.executeUpdate(), 1, "accounts changed");
    }

    private static void checkErrors(Connection connection) throws SQLException {
        expectError(1062, () -> prepared(connection, "INSERT INTO account VALUES (1, 1)"));
        expectError(1146, () -> prepared(connection, "DELETE FROM missing"));
        expectError(1064, () -> prepared(connection, "SELEC 1"));
    }

    private static void checkInserts(Connection connection) throws SQLException {
        execute(connection, "CREATE TABLE numbered (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(10))");
        try (PreparedStatement insert = connection.prepareStatement(
                "INSERT INTO numbered (v) VALUES (?), (?), (?)", Statement.RETURN_GENERATED_KEYS)) {
            insert.setString(1, "a");
            insert.setString(2, "b");
            insert.setString(3, "c");
            expect(insert.executeUpdate(), 3, "rows inserted");
            try (ResultSet keys = insert.getGeneratedKeys();
                    ResultSet rows = connection.createStatement().executeQuery("SELECT id FROM numbered ORDER BY id")) {
                while (rows.next()) {
                    expect(keys.next(), true, "a key for each row");
                    expect(keys.getLong(1), rows.getLong(1), "generated key");
                }
            }
        }
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO numbered (v) VALUES (?)")) {
            for (String value : List.of("d", "e")) {
                insert.setString(1, value);
                insert.addBatch();
            }
            expect(Arrays.toString(insert.executeBatch()), "[1, 1]", "batch");
        }
    }

    /** A value sent in pieces, and rows fetched a few at a time, when the server prepares. */
    private static void checkStreams(Connection connection) throws SQLException {
        execute(connection, "CREATE TABLE streamed (id INT PRIMARY KEY, b LONGBLOB)");
        byte[] large = new byte[3_000_000];
        new Random(1).nextBytes(large);
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO streamed VALUES (?, ?)")) {
            for (int id = 0; id < 20; id++) {
                insert.setInt(1, id);
                insert.setBinaryStream(2, new ByteArrayInputStream(id == 0 ? large : new byte[] {(byte) id}));
                insert.executeUpdate();
            }
        }
        try (PreparedStatement select = connection.prepareStatement("SELECT id, b FROM streamed ORDER BY id")) {
            select.setFetchSize(3);
            try (ResultSet rows = select.executeQuery()) {
                for (int id = 0; id < 20; id++) {
                    expect(rows.next(), true, "a row fetched");
                    expect(rows.getBytes(2), id == 0 ? large : new byte[] {(byte) id}, "streamed value");
                }
                expect(rows.next(), false, "a row too many");
            }
        }
    }

    private static void execute(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    private static void prepared(Connection connection, String sql) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            statement.execute();
        }
    }

    private static String scalar(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getString(1);
        }
    }

    private interface Action {
        void run() throws SQLException;
    }

    private static void expectError(int number, Action action) {
        try {
            action.run();
        } catch (SQLException error) {
            expect(error.getErrorCode(), number, "error number of " + error);
            return;
        }
        throw new AssertionError("no error where " + number + " was due");
    }

    private static void expect(Object got, Object want, String what) {
        if (!Objects.deepEquals(got, want)) {
            throw new AssertionError(what + ": got " + shown(got) + ", want " + shown(want));
        }
    }

    private static String shown(Object value) {
        String text = value instanceof byte[] bytes ? Arrays.toString(bytes) : String.valueOf(value);
        return text.length() > 300 ? text.substring(0, 300) + "…" : text;
    }
}
