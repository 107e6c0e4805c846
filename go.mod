module github.com/lunar-iscsi/lunar

go 1.25.0
