package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/contracts"
)

func (a *app) exposeA2ACmd() *cobra.Command {
	e := contracts.AgentExposure{}
	var price int64
	var private bool
	c := &cobra.Command{Use: "a2a <name>", Short: "Offer an A2A agent behind a URL", Args: cobra.ExactArgs(1),
		Long: `The URL is that of the agent, whose card is at /.well-known/agent-card.json, or that of
the card itself. Its requests go where the card says, if that is the same host and port.

  talos expose a2a planner --url http://127.0.0.1:9000
  talos expose a2a planner --url https://agents.example.org/planner --key planner-token

Programs of others use it at their own node, with the clients that they have:

  http://127.0.0.1:…/a2a/agents/<did>/planner      with the token of api.token`,
		RunE: func(c *cobra.Command, args []string) error {
			e.Name = args[0]
			if c.Flags().Changed("price-call") {
				e.PriceCall = &price
			}
			if private = private || inside(e.URL); private {
				e.Private = &private
			}
			running, err := a.changeGateway(c.Context(), func(g *contracts.GatewayConfig) error {
				g.Agents = slices.DeleteFunc(g.Agents, func(other contracts.AgentExposure) bool { return other.Name == e.Name })
				g.Agents = append(g.Agents, e)
				return nil
			})
			if err != nil {
				return err
			}
			return a.print(map[string]any{"name": e.Name, "running": running}, func() {
				fmt.Fprintf(a.out, "the A2A agent %s is exposed, %s\nlet somebody use it: talos cap grant <did> --scope agent:%s\n", e.Name, when(running), e.Name)
			})
		}}
	c.Flags().StringVar(&e.URL, "url", "", "of the agent, or of its card")
	c.Flags().StringVar(&e.Key, "key", "", "name of the secret that is its bearer token")
	c.Flags().Int64Var(&price, "price-call", 0, "millionths of a dollar for a message")
	c.Flags().BoolVar(&private, "private", false, "the address is in a private network, and meant; not needed for an address that says so itself")
	_ = c.MarkFlagRequired("url")
	return c
}
