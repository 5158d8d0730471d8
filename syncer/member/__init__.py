"""syncer in a member: joins the hub, reports the member, sends its exports, fetches the clusterset's services."""
