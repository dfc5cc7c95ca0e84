// GORM: migrates authors, books and tags (foreign key, unique index, many-to-many), then reads and
// writes them in transactions, with preloading and joins.
package main

import (
	"errors"
	"fmt"
	"log"
	"os"

	driver "github.com/go-sql-driver/mysql"
	"gorm.io/driver/mysql"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

const database = "orm_gorm"

// Author has many books; no book without one.
type Author struct {
	gorm.Model
	Name  string `gorm:"size:100;uniqueIndex;not null"`
	Books []Book `gorm:"constraint:OnDelete:RESTRICT"`
}

// Book has one author and many tags.
type Book struct {
	gorm.Model
	Title    string  `gorm:"size:200;not null"`
	Price    float64 `gorm:"type:decimal(10,2)"`
	AuthorID uint    `gorm:"not null"`
	Author   Author
	Tags     []Tag `gorm:"many2many:book_tags"`
}

// Tag is on many books.
type Tag struct {
	ID    uint
	Name  string `gorm:"size:50;unique;not null"`
	Books []Book `gorm:"many2many:book_tags"`
}

func check(err error) {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
}

func expect(got, want any, what string) {
	if fmt.Sprint(got) != fmt.Sprint(want) {
		log.Output(2, fmt.Sprintf("%s: got %v, want %v", what, got, want))
		os.Exit(1)
	}
}

func errorNumber(err error) uint16 {
	var server *driver.MySQLError
	if errors.As(err, &server) {
		return server.Number
	}
	return 0
}

func open(database string) *gorm.DB {
	dsn := fmt.Sprintf("root@tcp(127.0.0.1:%s)/%s?charset=utf8mb4&parseTime=True&loc=UTC", os.Getenv("CAIRN_PORT"), database)
	db, err := gorm.Open(mysql.Open(dsn), &gorm.Config{Logger: logger.Default.LogMode(logger.Silent)})
	check(err)
	return db
}

func main() {
	log.SetFlags(log.Lshortfile)
	root := open("")
	check(root.Exec("DROP DATABASE IF EXISTS " + database).Error)
	check(root.Exec("CREATE DATABASE " + database).Error)
	db := open(database)

	check(db.AutoMigrate(&Author{}, &Book{}, &Tag{}))
	check(db.AutoMigrate(&Author{}, &Book{}, &Tag{})) // The second compares and changes nothing.
	expect(db.Migrator().HasIndex(&Author{}, "Name"), true, "unique index seen")
	expect(db.Migrator().HasConstraint(&Author{}, "Books"), true, "foreign key seen")

	create(db)
	read(db)
	update(db)
	refuse(db)
	check(root.Exec("DROP DATABASE " + database).Error)
}

func create(db *gorm.DB) {
	check(db.Transaction(func(tx *gorm.DB) error {
		classic := Tag{Name: "classic"}
		return tx.Create(&Author{Name: "Ann", Books: []Book{
			{Title: "One", Price: 9.99, Tags: []Tag{classic, {Name: "short"}}},
			{Title: "Two", Price: 20},
		}}).Error
	}))
	check(db.Create(&[]Author{{Name: "Bob"}, {Name: "Cid"}}).Error)
}

func read(db *gorm.DB) {
	var ann Author
	check(db.Preload("Books.Tags").First(&ann, "name = ?", "Ann").Error)
	expect(len(ann.Books), 2, "books of Ann")
	expect(len(ann.Books[0].Tags), 2, "tags of One")
	expect(ann.Books[0].Price, 9.99, "price")

	var book Book
	check(db.Joins("Author").First(&book, "books.title = ?", "Two").Error)
	expect(book.Author.Name, "Ann", "joined author")

	var counts []struct {
		Name  string
		Books int
	}
	check(db.Model(&Author{}).Select("authors.name, COUNT(books.id) AS books").
		Joins("LEFT JOIN books ON books.author_id = authors.id").
		Group("authors.name").Order("authors.name").Scan(&counts).Error)
	expect(counts, "[{Ann 2} {Bob 0} {Cid 0}]", "books by author")
}

func update(db *gorm.DB) {
	rolledBack := errors.New("rolled back on purpose")
	err := db.Transaction(func(tx *gorm.DB) error {
		check(tx.Model(&Book{}).Where("title = ?", "One").Update("price", 1).Error)
		return rolledBack
	})
	expect(err, rolledBack, "error of the transaction")
	check(db.Model(&Book{}).Where("title = ?", "Two").Update("price", gorm.Expr("price * ?", 2)).Error)
	var prices []float64
	check(db.Model(&Book{}).Order("title").Pluck("price", &prices).Error)
	expect(prices, "[9.99 40]", "prices")

	// A transaction within a transaction is a savepoint.
	check(db.Transaction(func(tx *gorm.DB) error {
		_ = tx.Transaction(func(inner *gorm.DB) error {
			check(inner.Create(&Tag{Name: "lost"}).Error)
			return rolledBack
		})
		return tx.Create(&Tag{Name: "kept"}).Error
	}))
	var names []string
	check(db.Model(&Tag{}).Order("name").Pluck("name", &names).Error)
	expect(names, "[classic kept short]", "tags")

	var one Book
	check(db.First(&one, "title = ?", "One").Error)
	check(db.Model(&one).Association("Tags").Clear())
	expect(db.Model(&one).Association("Tags").Count(), 0, "tags after clearing")
	check(db.Delete(&one).Error)
	var left int64
	check(db.Model(&Book{}).Count(&left).Error)
	expect(left, 1, "books after a soft delete")
}

// Foreign keys are declared above, and not enforced by this version: only the unique key refuses.
func refuse(db *gorm.DB) {
	expect(errorNumber(db.Create(&Author{Name: "Ann"}).Error), 1062, "second Ann")
}
