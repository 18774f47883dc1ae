package fake

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Model is a model server with the APIs of OpenAI (chat completions, responses,
// embeddings) and Anthropic (messages). It echoes the last message of a user, a word a
// token; to "count N" it counts to N. It is safe for concurrent use; set the fields
// before it serves.
type Model struct {
	Key     string        // that it wants as bearer token or x-api-key; empty: none
	Pace    time.Duration // between two tokens of a stream
	Silent  bool          // it does not say what was used
	Hang    int           // a stream goes silent after so many tokens, until its reader is gone; 0: never
	Break   int           // a stream breaks off after so many tokens; 0: never
	Refuse  int           // status of every answer; 0: none
	Answers atomic.Int64  // calls that came
	Running atomic.Int64  // calls that run
	Cut     atomic.Int64  // streams whose reader was gone before their end

	mu   sync.Mutex
	last []byte
	held chan struct{} // closed by Release
}

// Hold has calls wait from now on, before they answer anything, until Release or their
// caller's end.
func (m *Model) Hold() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = make(chan struct{})
}

// Release lets calls go on.
func (m *Model) Release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.held)
}

// Last gives the body of the last request.
func (m *Model) Last() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

type asked struct {
	Model    string `json:"model"`
	Stream   bool   `json:"stream"`
	N        int    `json:"n"`
	Messages []struct {
		Role    string `json:"role"`
		Content any    `json:"content"`
	} `json:"messages"`
	Input         any `json:"input"`
	MaxTokens     int `json:"max_tokens"`
	MaxCompletion int `json:"max_completion_tokens"`
	MaxOutput     int `json:"max_output_tokens"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

func (m *Model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.Answers.Add(1)
	m.Running.Add(1)
	defer m.Running.Add(-1)
	if m.Key != "" && r.Header.Get("Authorization") != "Bearer "+m.Key && r.Header.Get("X-Api-Key") != m.Key {
		refuse(w, http.StatusUnauthorized, "wrong key "+r.Header.Get("Authorization"))
		return
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	m.mu.Lock()
	m.last = b
	held := m.held
	m.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
			return
		}
	}
	var q asked
	if err := json.Unmarshal(b, &q); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if m.Refuse != 0 {
		refuse(w, m.Refuse, "as the test wants it")
		return
	}
	switch _, op, _ := strings.Cut(r.URL.Path, "/v1/"); op {
	case "chat/completions":
		m.chat(w, r, &q)
	case "messages":
		m.messages(w, r, &q)
	case "responses":
		m.responses(w, r, &q)
	case "embeddings":
		answer(w, map[string]any{"object": "list", "model": q.Model, "data": []any{map[string]any{"object": "embedding", "index": 0, "embedding": []float64{0.25, -0.5}}},
			"usage": map[string]int{"prompt_tokens": len(words(q.Input)), "total_tokens": len(words(q.Input))}})
	default:
		refuse(w, http.StatusNotFound, "no such operation")
	}
}

func refuse(w http.ResponseWriter, status int, why string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": why, "type": "invalid_request_error", "code": nil, "param": nil}})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// words gives the words of a content: a text, or parts with texts.
func words(v any) []string {
	switch v := v.(type) {
	case string:
		return strings.Fields(v)
	case []any:
		var out []string
		for _, p := range v {
			if m, ok := p.(map[string]any); ok {
				out = append(out, words(m["text"])...)
				out = append(out, words(m["content"])...)
			} else {
				out = append(out, words(p)...)
			}
		}
		return out
	}
	return nil
}

// reply gives the tokens of an answer, how many came in, and why it ends.
func (q *asked) reply() (tokens []string, in int, reason string) {
	var last []string
	for _, m := range q.Messages {
		w := words(m.Content)
		in += len(w)
		if m.Role == "user" {
			last = w
		}
	}
	if q.Input != nil {
		last = words(q.Input)
		in += len(last)
	}
	tokens = append([]string{"echo:"}, last...)
	if len(last) == 2 && last[0] == "count" {
		if n, err := strconv.Atoi(last[1]); err == nil {
			tokens = make([]string, n)
			for i := range tokens {
				tokens[i] = strconv.Itoa(i + 1)
			}
		}
	}
	for _, limit := range []int{q.MaxTokens, q.MaxCompletion, q.MaxOutput} {
		if limit > 0 && limit < len(tokens) {
			return tokens[:limit], in, "length"
		}
	}
	return tokens, in, "stop"
}

// stream writes events token by token; it reports false if the stream is over before its
// end.
func (m *Model) stream(w http.ResponseWriter, r *http.Request, tokens []string, event func(token string) string) bool {
	c := http.NewResponseController(w)
	for i, t := range tokens {
		if m.Break > 0 && i == m.Break {
			panic(http.ErrAbortHandler)
		}
		pace := m.Pace
		if m.Hang > 0 && i == m.Hang {
			pace = time.Hour
		}
		if pace > 0 {
			timer := time.NewTimer(pace)
			select {
			case <-r.Context().Done():
				timer.Stop()
				m.Cut.Add(1)
				return false
			case <-timer.C:
			}
		}
		if i > 0 {
			t = " " + t
		}
		if _, err := io.WriteString(w, event(t)); err != nil {
			m.Cut.Add(1)
			return false
		}
		if c.Flush() != nil {
			m.Cut.Add(1)
			return false
		}
	}
	return true
}

func quoted(s string) string {
	b, _ := json.Marshal(s) // a text: cannot fail
	return string(b)
}

func (m *Model) chat(w http.ResponseWriter, r *http.Request, q *asked) {
	tokens, in, reason := q.reply()
	usage := map[string]int{"prompt_tokens": in, "completion_tokens": len(tokens) * max(q.N, 1), "total_tokens": in + len(tokens)*max(q.N, 1)}
	if !q.Stream {
		var choices []any
		for i := range max(q.N, 1) {
			choices = append(choices, map[string]any{"index": i, "message": map[string]any{"role": "assistant", "content": strings.Join(tokens, " ")}, "finish_reason": reason})
		}
		out := map[string]any{"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": q.Model, "choices": choices, "usage": usage, "x_unknown": map[string]any{"kept": 1.50}}
		if m.Silent {
			delete(out, "usage")
		}
		answer(w, out)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	head := fmt.Sprintf(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":%s,"choices":[{"index":0,"delta":`, quoted(q.Model))
	_, _ = io.WriteString(w, ": a comment\n\n"+head+`{"role":"assistant","content":""},"finish_reason":null}]}`+"\n\n")
	if !m.stream(w, r, tokens, func(t string) string {
		return head + `{"content":` + quoted(t) + `},"finish_reason":null}]}` + "\n\n"
	}) {
		return
	}
	_, _ = io.WriteString(w, head+`{},"finish_reason":`+quoted(reason)+`}]}`+"\n\n")
	if q.StreamOptions.IncludeUsage && !m.Silent {
		b, _ := json.Marshal(usage)
		_, _ = fmt.Fprintf(w, `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":%s,"choices":[],"usage":%s}`+"\n\n", quoted(q.Model), b)
	}
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
}

func (m *Model) messages(w http.ResponseWriter, r *http.Request, q *asked) {
	tokens, in, reason := q.reply()
	stop := map[string]string{"stop": "end_turn", "length": "max_tokens"}[reason]
	if !q.Stream {
		answer(w, map[string]any{"id": "msg_1", "type": "message", "role": "assistant", "model": q.Model, "content": []any{map[string]any{"type": "text", "text": strings.Join(tokens, " ")}},
			"stop_reason": stop, "stop_sequence": nil, "usage": map[string]int{"input_tokens": in, "output_tokens": len(tokens)}})
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = fmt.Fprintf(w, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":%s,\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":%d,\"output_tokens\":1}}}\n\n", quoted(q.Model), in)
	_, _ = io.WriteString(w, "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n")
	if !m.stream(w, r, tokens, func(t string) string {
		return "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":" + quoted(t) + "}}\n\n"
	}) {
		return
	}
	_, _ = fmt.Fprintf(w, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":%s,\"stop_sequence\":null},\"usage\":{\"output_tokens\":%d}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", quoted(stop), len(tokens))
}

func (m *Model) responses(w http.ResponseWriter, r *http.Request, q *asked) {
	tokens, in, _ := q.reply()
	whole := map[string]any{"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": q.Model,
		"output": []any{map[string]any{"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": []any{map[string]any{"type": "output_text", "text": strings.Join(tokens, " "), "annotations": []any{}}}}},
		"usage":  map[string]int{"input_tokens": in, "output_tokens": len(tokens), "total_tokens": in + len(tokens)}}
	if !q.Stream {
		answer(w, whole)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	seq := 0
	event := func(typ, rest string) string {
		seq++
		return fmt.Sprintf("event: %s\ndata: {\"type\":%q,\"sequence_number\":%d%s}\n\n", typ, typ, seq-1, rest)
	}
	_, _ = io.WriteString(w, event("response.created", ""))
	if !m.stream(w, r, tokens, func(t string) string {
		return event("response.output_text.delta", `,"item_id":"msg_1","output_index":0,"content_index":0,"delta":`+quoted(t))
	}) {
		return
	}
	b, _ := json.Marshal(whole)
	_, _ = io.WriteString(w, event("response.completed", `,"response":`+string(b)))
}
