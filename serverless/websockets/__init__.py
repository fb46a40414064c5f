"""API Gateway WebSockets as a Channels layer, and an adapter that runs Channels consumers as Lambda events.

`layer.GatewayChannelLayer` is what CHANNEL_LAYERS names, `gateway.Gateway` is what a Lambda function calls, and
`table.definition` is the one DynamoDB table that both need. docs/realtime.md describes them.
"""
