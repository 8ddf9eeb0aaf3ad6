// Command ferretdb speaks MongoDB's protocol on SQLite files, for tests and small installations without mongod.
//
// It is FerretDB as its own documentation embeds it. It serves until SIGTERM or SIGINT, and exits 0 then; 1 when it
// cannot listen or its folder is not usable. It sends nothing to FerretDB's makers. It must not listen off loopback
// without something in front: it knows no users.
package main

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:27017", "address, HOST:PORT")
	folder := flag.String("folder", "data", "where the files lie; it must exist")
	flag.Parse()

	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	if err := serve(ctx, *listen, *folder, logger); err != nil {
		logger.Error("ferretdb stopped", "error", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, listen, folder string, logger *slog.Logger) error {
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: listen},
		Logger:    logger,
		Handler:   "sqlite",
		SQLiteURL: "file:" + folder + "/",
	})
	if err != nil {
		return err
	}
	return server.Run(ctx)
}
