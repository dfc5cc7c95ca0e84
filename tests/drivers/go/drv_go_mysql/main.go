// go-sql-driver/mysql: the text protocol (parameters put into the statement by the driver) and the
// binary one (prepared statements), both over database/sql.
package main

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	database = "drv_go_mysql"
	password = "pass'word"
)

// A column of every type, the value written, and what it reads back as text.
type column struct {
	name, kind string
	value      any
	text       string
}

var everyType = []column{
	{"c_tinyint", "TINYINT", int64(-128), "-128"},
	{"c_utinyint", "TINYINT UNSIGNED", int64(255), "255"},
	{"c_smallint", "SMALLINT", int64(-32768), "-32768"},
	{"c_mediumint", "MEDIUMINT", int64(-8388608), "-8388608"},
	{"c_int", "INT", int64(-2147483648), "-2147483648"},
	{"c_uint", "INT UNSIGNED", int64(4294967295), "4294967295"},
	{"c_bigint", "BIGINT", int64(-9223372036854775808), "-9223372036854775808"},
	{"c_ubigint", "BIGINT UNSIGNED", uint64(18446744073709551615), "18446744073709551615"},
	{"c_decimal", "DECIMAL(65,30)", "12345678901234567890.123456789012345678901234567890", "12345678901234567890.123456789012345678901234567890"},
	{"c_float", "FLOAT", 1.5, "1.5"},
	{"c_double", "DOUBLE", 3.141592653589793, "3.141592653589793"},
	{"c_char", "CHAR(10)", "char", "char"},
	{"c_varchar", "VARCHAR(50)", "größe 漢字 🦀", "größe 漢字 🦀"},
	{"c_binary", "BINARY(4)", []byte{0, 1, 254, 255}, "\x00\x01\xfe\xff"},
	{"c_varbinary", "VARBINARY(10)", []byte("\x00'\"\\\n\xff"), "\x00'\"\\\n\xff"},
	{"c_tinytext", "TINYTEXT", "tiny", "tiny"},
	{"c_text", "TEXT", "te\\xt' \n", "te\\xt' \n"},
	{"c_mediumtext", "MEDIUMTEXT", strings.Repeat("m", 70000), strings.Repeat("m", 70000)},
	{"c_longtext", "LONGTEXT", strings.Repeat("l", 300), strings.Repeat("l", 300)},
	{"c_tinyblob", "TINYBLOB", []byte{0x80}, "\x80"},
	{"c_blob", "BLOB", []byte("\x00\x01\xff"), "\x00\x01\xff"},
	{"c_mediumblob", "MEDIUMBLOB", bytes.Repeat([]byte{255}, 70000), strings.Repeat("\xff", 70000)},
	{"c_longblob", "LONGBLOB", []byte{}, ""},
	{"c_date", "DATE", "2024-02-29", "2024-02-29"},
	{"c_datetime", "DATETIME(6)", "2024-02-29 23:59:59.123456", "2024-02-29 23:59:59.123456"},
	{"c_timestamp", "TIMESTAMP(6) NULL", "2024-03-01 01:02:03.654321", "2024-03-01 01:02:03.654321"},
	{"c_time", "TIME(6)", "-100:01:02.500000", "-100:01:02.500000"},
	{"c_year", "YEAR", int64(2024), "2024"},
	{"c_bit", "BIT(10)", []byte{2, 0xa5}, "\x02\xa5"},
	{"c_enum", "ENUM('a','b','c')", "b", "b"},
	{"c_set", "SET('x','y','z')", "x,z", "x,z"},
	{"c_json", "JSON", `{"a": [1, 2.5, "x"], "b": null}`, `{"a": [1, 2.5, "x"], "b": null}`},
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
	return value
}

func check(err error) { must(0, err) }

func expect(got, want any, what string) {
	if fmt.Sprint(got) != fmt.Sprint(want) {
		log.Output(2, fmt.Sprintf("%s: got %.200q, want %.200q", what, fmt.Sprint(got), fmt.Sprint(want)))
		os.Exit(1)
	}
}

func open(user, password, database string, interpolate bool) *sql.DB {
	config := mysql.NewConfig()
	config.User, config.Passwd, config.DBName = user, password, database
	config.Net, config.Addr = "tcp", "127.0.0.1:"+os.Getenv("CAIRN_PORT")
	config.InterpolateParams = interpolate
	config.Params = map[string]string{"charset": "utf8mb4"}
	db := sql.OpenDB(must(mysql.NewConnector(config)))
	check(db.Ping())
	return db
}

func errorNumber(err error) uint16 {
	var server *mysql.MySQLError
	if errors.As(err, &server) {
		return server.Number
	}
	return 0
}

func main() {
	log.SetFlags(log.Lshortfile)
	for _, user := range [][2]string{{"root", ""}, {"drv_native", password}, {"drv_sha2", password}} {
		db := open(user[0], user[1], "", false)
		var current string
		check(db.QueryRow("SELECT CURRENT_USER()").Scan(&current))
		expect(current, user[0]+"@%", "CURRENT_USER()")
		db.Close()
	}

	root := open("root", "", "", false)
	for _, interpolate := range []bool{true, false} {
		must(root.Exec("DROP DATABASE IF EXISTS " + database))
		must(root.Exec("CREATE DATABASE " + database))
		db := open("root", "", database, interpolate)
		checkTypes(db)
		checkTimes(interpolate)
		checkTransactions(db)
		checkErrors(db)
		checkInserts(db)
		db.Close()
	}
	must(root.Exec("DROP DATABASE " + database))
}

func checkTypes(db *sql.DB) {
	var definitions, names []string
	values, nulls := []any{1}, []any{2}
	for _, c := range everyType {
		definitions = append(definitions, c.name+" "+c.kind)
		names = append(names, c.name)
		values, nulls = append(values, c.value), append(nulls, nil)
	}
	must(db.Exec("CREATE TABLE every_type (id INT PRIMARY KEY, " + strings.Join(definitions, ", ") + ")"))
	insert := "INSERT INTO every_type VALUES (?" + strings.Repeat(", ?", len(names)) + ")"
	must(db.Exec(insert, values...))
	must(db.Exec(insert, nulls...))

	read := func(what, query string, id int, arguments ...any) {
		rows := must(db.Query(query, arguments...))
		defer rows.Close()
		got := make([]sql.NullString, len(names))
		targets := make([]any, len(names))
		for i := range got {
			targets[i] = &got[i]
		}
		if !rows.Next() {
			log.Fatal("no row: ", rows.Err())
		}
		check(rows.Scan(targets...))
		types := must(rows.ColumnTypes())
		for i, c := range everyType {
			expect(got[i].Valid, id == 1, what+c.name+" is not NULL")
			if id == 1 {
				expect(got[i].String, c.text, what+c.name)
			}
			kind := strings.FieldsFunc(c.kind, func(r rune) bool { return r == '(' || r == ' ' })[0]
			reported := strings.TrimPrefix(types[i].DatabaseTypeName(), "UNSIGNED ")
			switch { // The driver has one name for all sizes, and for what travels as a string.
			case strings.HasSuffix(kind, "TEXT"):
				kind = "TEXT"
			case strings.HasSuffix(kind, "BLOB"):
				kind = "BLOB"
			}
			expect(reported, kind, what+"type of "+c.name)
		}
	}
	list := strings.Join(names, ", ")
	for id := 1; id <= 2; id++ {
		read("text: ", fmt.Sprintf("SELECT %s FROM every_type WHERE id = %d", list, id), id)
		read("with parameters: ", "SELECT "+list+" FROM every_type WHERE id = ?", id, id)
	}
}

// time.Time in and out, with fractions of a second.
func checkTimes(interpolate bool) {
	config := must(mysql.ParseDSN(fmt.Sprintf("root@tcp(127.0.0.1:%s)/%s?parseTime=true", os.Getenv("CAIRN_PORT"), database)))
	config.InterpolateParams = interpolate
	db := sql.OpenDB(must(mysql.NewConnector(config)))
	defer db.Close()
	want := time.Date(2031, 12, 31, 1, 2, 3, 4000, time.UTC)
	must(db.Exec("UPDATE every_type SET c_datetime = ?, c_date = ? WHERE id = 1", want, want))
	var got, date time.Time
	check(db.QueryRow("SELECT c_datetime, c_date FROM every_type WHERE c_datetime = ?", want).Scan(&got, &date))
	expect(got, want, "time.Time")
	expect(date.Format(time.DateOnly), "2031-12-31", "date")
}

func checkTransactions(db *sql.DB) {
	must(db.Exec("CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL)"))
	must(db.Exec("INSERT INTO account VALUES (1, 100), (2, 0)"))
	tx := must(db.Begin())
	must(tx.Exec("UPDATE account SET balance = balance - ? WHERE id = ?", 10, 1))
	check(tx.Rollback())
	tx = must(db.Begin())
	must(tx.Exec("UPDATE account SET balance = balance - ? WHERE id = ?", 30, 1))
	must(tx.Exec("UPDATE account SET balance = balance + ? WHERE id = ?", 30, 2))
	check(tx.Commit())

	statement := must(db.Prepare("SELECT balance FROM account WHERE id = ?"))
	defer statement.Close()
	for id, want := range map[int]int{1: 70, 2: 30} {
		var balance int
		check(statement.QueryRow(id).Scan(&balance))
		expect(balance, want, "balance")
	}
}

func checkErrors(db *sql.DB) {
	for query, want := range map[string]uint16{
		"INSERT INTO account VALUES (1, 1)": 1062,
		"SELECT * FROM missing":             1146,
		"SELEC 1":                           1064,
	} {
		_, err := db.Exec(query)
		expect(errorNumber(err), want, query)
	}
	_, err := db.Prepare("SELECT * FROM missing WHERE id = ?")
	expect(errorNumber(err), 1146, "PREPARE of a missing table")
}

func checkInserts(db *sql.DB) {
	must(db.Exec("CREATE TABLE numbered (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(10))"))
	result := must(db.Exec("INSERT INTO numbered (v) VALUES (?), (?), (?)", "a", "b", "c"))
	first := must(result.LastInsertId())
	expect(must(result.RowsAffected()), 3, "affected rows")
	rows := must(db.Query("SELECT id, v FROM numbered ORDER BY id"))
	defer rows.Close()
	for i := int64(0); rows.Next(); i++ {
		var id int64
		var v string
		check(rows.Scan(&id, &v))
		expect(fmt.Sprint(id, v), fmt.Sprint(first+i, string(rune('a'+i))), "numbered row")
	}
	check(rows.Err())
}
