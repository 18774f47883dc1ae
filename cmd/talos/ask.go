package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/contracts"
)

// askCmd is a chat of one question: the quickest way to see that a model answers.
func (a *app) askCmd() *cobra.Command {
	var most int64
	c := &cobra.Command{
		Use: "ask <model> <text…>", Short: "Ask a model of a gateway, and print its answer as it comes", Args: cobra.MinimumNArgs(2),
		Long: `The model is one that a trusted gateway offers, or <did>/<model>. Programs ask the same at
the node's loopback address, as they would ask OpenAI: the base URL is in api.address of
the home, with /v1 behind it, and the key is in api.token.`,
		RunE: func(c *cobra.Command, args []string) error {
			q := map[string]any{"model": args[0], "stream": !a.json, "messages": []map[string]string{{"role": "user", "content": strings.Join(args[1:], " ")}}}
			if most > 0 {
				q["max_tokens"] = most
			}
			b, err := json.Marshal(q)
			if err != nil {
				return err
			}
			resp, err := a.client().Open(c.Context(), http.MethodPost, "/v1/chat/completions", b)
			if err != nil {
				return err
			}
			defer resp.Body.Close() //nolint:errcheck // read
			if a.json {
				_, err = io.Copy(a.out, resp.Body)
				return err
			}
			return a.printStream(resp.Body)
		},
	}
	c.Flags().Int64Var(&most, "max-tokens", 0, "of the answer at most; 0: as the gateway says")
	return c
}

// printStream prints the content of chat completion chunks.
func (a *app) printStream(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok || data[0] != '{' {
			continue
		}
		var chunk struct {
			Choices []struct {
				Delta struct {
					Content string `json:"content"`
				} `json:"delta"`
			} `json:"choices"`
			Error *struct {
				Message string `json:"message"`
				Code    string `json:"code"`
			} `json:"error"`
		}
		if err := json.Unmarshal(data, &chunk); err != nil {
			return contracts.Errorf(contracts.Malformed, "the answer's stream: %w", err)
		}
		if chunk.Error != nil {
			fmt.Fprintln(a.out)
			return &contracts.Error{Code: contracts.Code(chunk.Error.Code), Msg: chunk.Error.Message}
		}
		for _, ch := range chunk.Choices {
			fmt.Fprint(a.out, ch.Delta.Content)
		}
	}
	fmt.Fprintln(a.out)
	return lines.Err()
}
