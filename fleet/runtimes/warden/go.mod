module derp-portal/warden

go 1.19
